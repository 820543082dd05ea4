"""A dashboard from its server to its end: of the run that is going on, and of runs that were recorded."""

import importlib.util
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import torch

from utils.config import Config
from utils.dashboard_layout import EACH_RUN
from utils.environment_tool import command
from utils.errors import UserError
from utils.event_log import EventLog, Tail, read_events
from utils.option_values import bind_address, flag, server_url
from utils.show_tool import table
from utils.terminal_tool import tell, warn
from utils.vis_tool import Visualizer
from utils.visdom_server import (
    Server,
    environments,
    is_loopback,
    is_visdom,
    open_at,
    port_in_use,
    reached_at,
    start_server,
)

LOG, ENVIRONMENTS = "runs/visdom.log", "runs/visdom"  # of a server that is started here
LOOK_EVERY = 1.0  # seconds between two looks at the log of a run that goes on
LAST_WORDS = 30.0  # seconds that a server which answers has at the end to take what is pending
QUIET = 600.0  # seconds after which a run that says nothing is taken for ended


# What is said of a server that others reach, whoever they are.
OPEN = (
    "whoever reaches it can read and change what it shows; set VISDOM_USERNAME and VISDOM_PASSWORD for a server that "
    "is started with --visdom-bind, or leave that out"
)

VARIABLES = {"visdom": "VISDOM", "visdom_server": "VISDOM_SERVER", "visdom_bind": "VISDOM_BIND", "port": "VISDOM_PORT"}


def from_environment(given: dict) -> dict[str, str]:
    """The dashboard's options that the environment has and `given`, a command line's names and values, has not.

    Raises:
        UserError: one of them is no such value; it names the variable.
    """
    names = {name.replace("-", "_") for name in given}
    found = {name: os.environ[key] for name, key in VARIABLES.items() if os.environ.get(key) and name not in names}
    for name, value in found.items():
        try:
            Config().parse({name: value})
        except UserError as error:
            raise UserError(str(error).replace(f"{flag(name)}=", f"{VARIABLES[name]}=")) from None
    return found


def server_from(opt) -> Server:
    """The server of the options; who logs in is the environment's alone, so that no file gets a password."""
    login = {name: os.environ.get(f"VISDOM_{name.upper()}") for name in ("username", "password")}
    return Server(server_url(opt.visdom_server), opt.port, bind=bind_address(opt.visdom_bind), **login)


def about(opt) -> dict[str, str]:
    """The command, and the options that are not their defaults, for the window `config`."""
    default = type(opt)().state_dict()
    own = {flag(name): value for name, value in opt.state_dict().items() if value != default[name]}
    return {"command": command(), "torch": torch.__version__, **own}


@contextmanager
def serving(mode: str, server: Server) -> Iterator[tuple[Server, bool]]:
    """A visdom server for the block: the one that answers, or one that is started on this machine.

    Args:
        mode: 'auto': start one where none answers, and end it with the block; 'keep': leave it running; 'on': start
            none; 'off'.
        server: where it is, or shall be. A port that another program has is left for the next free one.

    Yields:
        where it is, and whether it was started here.
    """
    process = None
    if mode != "off":
        own = replace(server, url=reached_at(server.bind))  # where one that was started before may be
        if server.is_local() and not is_loopback(server.bind) and not is_visdom(server.port, server.url):
            server = own if is_visdom(own.port, own.url) else server
        if is_visdom(server.port, server.url):
            tell(f"dashboard: {server.address()}")
            if address := open_at(server):
                warn(f"the visdom server answers at {address} without a login: {OPEN}")
        elif mode == "on" or not server.is_local():
            tell(f"dashboard: no visdom answers at {server.address()}; all is sent there as soon as one does")
        else:
            while port_in_use(server.port, server.bind):
                tell(f"dashboard: another program has port {server.port}; trying {server.port + 1}")
                server = server.at(server.port + 1)
            login = (server.username, server.password) if server.username and server.password else None
            if is_loopback(server.bind):  # the login is for the server that was meant
                login = None
            elif login is None:
                warn(f"the visdom server listens on {server.bind} without a login: {OPEN}")
            username, password = login or (None, None)
            server = replace(server, url=own.url, username=username, password=password)
            try:
                process = start_server(server.port, LOG, ENVIRONMENTS, server.bind, login)
                tell(f"dashboard: {server.address()}, a visdom server that was started for it")
            except UserError as error:
                warn(f"{error}; the run goes on without a dashboard")
        if process and not page_is_there():
            warn("the dashboard's page stays blank without its files; `python misc/visdom_assets.py` brings them")
    try:
        yield server, process is not None
    finally:
        if process and mode == "auto":
            process.kill()  # a hung one would not heed a milder signal; what is saved was saved before
            process.wait()
        elif process:
            tell(f"the dashboard's server goes on at {server.address()}; `kill {process.pid}` ends it")


def page_is_there() -> bool:
    """Whether the files of visdom's page are in place, see misc/visdom_assets.py."""
    found = importlib.util.find_spec("visdom")
    return found is not None and Path(found.submodule_search_locations[0], "static/version.built").is_file()


@contextmanager
def dashboard(env, mode, server, label_names, run_dir, about, go_on_from=None, n_events=None) -> Iterator[Visualizer]:
    """The `Visualizer` of a run, saved and closed at its end; what it records is kept in `run_dir`, see `EventLog`.

    Args:
        env: the environment in visdom.
        mode, server: see `serving`.
        about: name → value, for the window `config`.
        go_on_from, n_events: the step of the checkpoint with which the run goes on, and the number of the event that
            came next: the curves go on from there.
    """
    events = EventLog(run_dir, go_on_from, n_events)
    with serving(mode, server) as (server, started):
        vis = Visualizer(env, server=server, enabled=mode != "off", events=events)
        if mode != "off":
            if not started and go_on_from is None and vis.env in environments(server):
                tell(f"the environment {vis.env} is there already: its windows are replaced, or mixed with those of a "
                     "run that goes on there; --env=NAME gives this one its own")  # fmt: skip
            tell(f"watch it learn: {server.address()}/env/{quote(vis.env)}")
        try:
            if go_on_from is not None:
                vis.replay(read_events(run_dir), run_dir)
            vis.expect(EACH_RUN)
            vis.text(table((str(k), name) for k, name in enumerate(label_names)), win="labels")
            vis.text(table(about.items()), win="config")
            vis.log("begun" if go_on_from is None else f"goes on from step {go_on_from:,}")
            yield vis
        except BaseException:
            events.ending = "stopped"
            raise
        finally:
            vis.save()
            vis.flush(LAST_WORDS if vis.connected else 0)
            vis.close()
            if events.problem:
                warn(f"{events.problem}; the run's log lacks a part")
            if started and mode == "auto":
                tell(f"the dashboard's server ends with the run (--visdom=keep leaves it running); "
                    f"python train.py dashboard --run={run_dir} shows the run again")  # fmt: skip


def show_runs(folders: Sequence[str | os.PathLike], env: str | None, mode: str, server: Server):
    """Bring recorded runs to a visdom server; of several, curves stand over each other. Follows runs that go on.

    Returns when all runs have ended; where the server was started for it (mode 'auto'), after Ctrl-C.

    Raises:
        UserError: one of the folders is no run's.
    """
    tails = [Tail(folder) for folder in folders]
    names = run_names(folders)
    env = env or "-vs-".join(names)  # an underscore would put it below the first run's, in the page's list
    with serving(mode, server) as (server, started):
        vis = Visualizer(env, server=server)
        tell(f"{', '.join(names)}: {server.address()}/env/{quote(vis.env)}")
        try:
            _follow(vis, tails, names if len(names) > 1 else [None])
            while not vis.flush(LOOK_EVERY):  # a server that is not there yet
                pass
            if started and mode == "auto":
                tell("all is shown; Ctrl-C ends the server")
                while True:
                    time.sleep(LOOK_EVERY)
        except KeyboardInterrupt:
            pass
        finally:
            vis.save()
            vis.close()


def _follow(vis, tails, names):
    told = False
    while True:
        if any(tail.began_anew() for tail in tails):  # a run went on from a checkpoint
            vis.clear()
            for tail in tails:
                tail.rewind()
        for tail, name in zip(tails, names, strict=True):
            vis.replay(tail.read(), tail.folder, name)
        if all(tail.ended or tail.silent_for() > QUIET for tail in tails):
            return
        if not told:
            tell("the run goes on, and is followed; Ctrl-C leaves it alone")
            told = True
        time.sleep(LOOK_EVERY)


def run_names(folders) -> list[str]:
    """A name for each folder: its own, or its path where two would have the same."""
    names = [Path(folder).absolute().name for folder in folders]
    return [str(folder) if names.count(name) > 1 else name for folder, name in zip(folders, names, strict=True)]
