"""The command line: what `ostinato run` makes of a program is what `python` makes of it, and the other commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy

import ostinato
from ostinato import cli

RUN = ("-m", "ostinato", "run")


def python(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Another process: a program under `run` takes over the one it is in."""
    return subprocess.run([sys.executable, *args], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def same_as_python(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What `ostinato run` does with a program, checked to be exactly what `python` does."""
    ours, pythons = python(*RUN, *args, cwd=cwd), python(*args, cwd=cwd)
    assert ours.stderr == pythons.stderr
    assert ours.stdout == pythons.stdout
    assert ours.returncode == pythons.returncode
    return ours


# ---- run ------------------------------------------------------------------------------------------

SHOW = """\
import builtins, sys
import beside
me = sys.modules['__main__']
print(sys.argv, sys.path[0], beside.__file__)
print(__name__, __file__, __package__, __doc__, __builtins__ is builtins, me.__dict__ is globals())
print(type(__loader__).__name__, getattr(__spec__, 'name', None), annotations if 'annotations' in globals() else None)
"""


def test_a_script_finds_what_python_gives_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "show.py").write_text(SHOW)
    (tmp_path / "sub" / "beside.py").write_text("")
    args = ("sub/show.py", "-x", "--version", "--", "--force", "-m", "two words", "")
    done = same_as_python(*args, cwd=tmp_path)
    assert repr(list(args)) in done.stdout
    assert done.returncode == 0


def test_a_module_finds_what_python_gives_it(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (tmp_path / "beside.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "show.py").write_text(SHOW)
    (package / "__main__.py").write_text("from package import show\nimport sys; print(sys.argv, __package__)")
    same_as_python("-m", "package.show", "-x", "-m", "y", cwd=tmp_path)
    done = same_as_python("-m", "package", "--help", cwd=tmp_path)
    assert done.returncode == 0


def test_a_program_has_theano_to_its_very_end(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("from theano.tensor import dot\n")
    (tmp_path / "main.py").write_text(
        "import atexit, pickle, threading, time\n"
        "class Mine: pass\n"
        "def late():\n"
        "    time.sleep(0.1)\n"
        "    import helper, theano.tensor as T\n"
        "    print(helper.dot is T.dot, type(pickle.loads(pickle.dumps(Mine()))) is Mine)\n"
        "atexit.register(late)\n"
        "threading.Thread(target=late).start()\n"
    )
    done = python(*RUN, "main.py", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\n" * 2, "")


def test_a_traceback_is_the_programs(tmp_path: Path) -> None:
    (tmp_path / "fail.py").write_text(
        "def f():\n    try:\n        {}['k']\n    except KeyError as e:\n        raise ValueError('here') from e\nf()\n"
    )
    done = same_as_python("fail.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "ValueError: here" in done.stderr
    assert "cli.py" not in done.stderr


def test_a_syntax_error_is_the_programs(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text("print 'no parentheses'\n")
    assert same_as_python("old.py", cwd=tmp_path).returncode == 1


@pytest.mark.parametrize(("leave", "code"), [("sys.exit(7)", 7), ("sys.exit('a message')", 1), ("print('done')", 0)])
def test_exit_codes_pass_through(tmp_path: Path, leave: str, code: int) -> None:
    (tmp_path / "leave.py").write_text(f"import sys\n{leave}\n")
    assert same_as_python("leave.py", cwd=tmp_path).returncode == code


def test_an_unknown_name_of_theanos_is_told_at_the_programs_line(tmp_path: Path) -> None:
    (tmp_path / "unknown.py").write_text("import theano\n\ntheano.tensor.sofmax([1])\n")
    done = python(*RUN, "unknown.py", cwd=tmp_path)
    assert done.returncode == 1
    assert 'unknown.py", line 3, in <module>\n    theano.tensor.sofmax([1])' in done.stderr
    assert "is not part of ostinato's Theano layer (yet); close to it: theano.tensor.softmax" in done.stderr


def test_a_real_theano_is_hidden_only_if_asked(tmp_path: Path) -> None:
    (tmp_path / "theano.py").write_text("config = 'real'\n")
    (tmp_path / "show.py").write_text("import theano; print(theano.config.floatX)\n")
    done = python(*RUN, "show.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "a real Theano is installed" in done.stderr
    assert "ostinato run --force" in done.stderr
    done = python(*RUN, "--force", "show.py", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "float64\n", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere.py", "-x"], "cannot open 'nowhere.py': No such file or directory\n"),
        (["."], "cannot open '.': "),
        (["--force", "no/where.py"], "cannot open 'no/where.py': "),
    ],
)
def test_no_script_to_run(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv, path = list(sys.argv), list(sys.path)
    assert cli.main(["run", *args]) == 2
    assert capsys.readouterr().err.startswith(f"ostinato run: {message}")
    assert (sys.argv, sys.path) == (argv, path)


@pytest.mark.parametrize("name", ["no_such_module", "no_such_package.module"])
def test_no_module_to_run(tmp_path: Path, name: str) -> None:
    done = python(*RUN, "-m", name, "-x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"ostinato run: there is no module {name!r} that can be run\n"


def test_what_a_packages_import_raises_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("import something_not_installed\n")
    done = python(*RUN, "-m", "package.module", cwd=tmp_path)
    assert done.returncode == 1
    assert "No module named 'something_not_installed'" in done.stderr


@pytest.mark.parametrize("args", [["run"], ["run", "-m"], ["run", "-x", "script.py"], ["ran", "script.py"], ["-x"]])
def test_a_command_line_that_cannot_be_parsed(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(args)
    assert caught.value.code == 2
    assert "usage: ostinato" in capsys.readouterr().err


# ---- the other commands ---------------------------------------------------------------------------


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ostinato {ostinato.__version__}\n"


def test_the_installed_command(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("ostinato")
    if not command.exists():
        pytest.skip("the package is not installed beside this interpreter")
    (tmp_path / "show.py").write_text("import sys, theano; print(sys.argv, sys.path[0], theano.scan.__module__)\n")
    done = subprocess.run(
        [str(command), "run", "show.py", "-x"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"['show.py', '-x'] {tmp_path.resolve()} ostinato.scan\n"


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for text in (ostinato.__version__, np.__version__, scipy.__version__, "reference", "floatX = 'float64'"):
        assert text in out


def test_no_command_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    err = capsys.readouterr().err
    assert "run " in err
    assert "info " in err


@pytest.mark.parametrize("name", list(cli._COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ostinato {name}")
