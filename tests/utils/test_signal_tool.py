"""utils/signal_tool.py: in a process of its own, which gets real signals."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
import os, signal, sys, time
from utils.signal_tool import Interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
me = os.getpid()
"""


def outcome(body):
    """(exit code, what was printed, what was printed on the standard error) of a program."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(body)], cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode, done.stdout.split(), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_block_that_is_held_is_made_to_its_end(number):
    code, out, err = outcome(f"""
        with Interrupts() as interrupts:
            with interrupts.held():
                os.kill(me, {int(number)})
                print("made")
            print("never")
    """)
    assert (code, out) == (128 + number, ["made"])
    assert "stopping after this step" in err


def test_elsewhere_it_ends_at_once():
    code, out, _ = outcome("""
        with Interrupts() as interrupts:
            with interrupts.held():
                print("one")
            try:
                os.kill(me, signal.SIGINT)
                print("never")
            except KeyboardInterrupt:
                print("two")
    """)
    assert (code, out) == (0, ["one", "two"])


def test_several_processes_leave_together():
    """In the middle of an `agreed` block one that is asked to end waits for the others, but for what is `free`."""
    code, out, err = outcome("""
        class World:
            size, asked = 2, 0
            def max(self, number):
                return [max(number, self.asked)]
        world = World()
        with Interrupts() as interrupts:
            with interrupts.agreed(world):
                with interrupts.held():
                    print("one")
                os.kill(me, signal.SIGINT)  # between two steps: the other may be in the next one already
                os.kill(me, signal.SIGINT)  # what torchrun passes on
                try:
                    with interrupts.held():
                        print("two")
                except KeyboardInterrupt:
                    print("left")
            interrupts._asked = None
            with interrupts.agreed(world):
                world.asked = signal.SIGTERM  # the other is asked, this one is not
                try:
                    with interrupts.held():
                        print("three")
                except SystemExit:
                    print("left")
            interrupts._asked, world.asked = None, 0
            with interrupts.agreed(world), interrupts.free():
                os.kill(me, signal.SIGTERM)
                print("never")
    """)
    assert (code, out) == (143, ["one", "two", "left", "three", "left"])
    assert err.count("stopping after this step") == 1


def test_the_second_ctrl_c_leaves_whatever_is_going_on_and_a_second_sigterm_does_not():
    code, out, err = outcome("""
        with Interrupts() as interrupts, interrupts.held():
            os.kill(me, signal.SIGTERM)
            os.kill(me, signal.SIGTERM)
            print("goes on", flush=True)
            os.kill(me, signal.SIGINT)
            print("never", flush=True)
    """)
    assert (code, out) == (130, ["goes", "on"])
    assert "left at once" in err


def test_what_was_ignored_stays_ignored_and_the_former_handlers_come_back():
    code, out, _ = outcome("""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        former = signal.getsignal(signal.SIGTERM)
        with Interrupts() as interrupts:
            os.kill(me, signal.SIGHUP)
            print("nohup")
        assert signal.getsignal(signal.SIGTERM) == former
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    """)
    assert (code, out) == (0, ["nohup"])


def test_an_error_in_a_held_block_comes_out_of_it():
    code, out, _ = outcome("""
        with Interrupts() as interrupts:
            try:
                with interrupts.held():
                    os.kill(me, signal.SIGTERM)
                    raise ValueError
            except ValueError:
                print("its own error")
    """)
    assert (code, out) == (0, ["its", "own", "error"])
