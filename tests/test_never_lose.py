"""A saver that is killed, stopped by a full disk or met by another one leaves a whole file, and no rest."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import paramtree as pt
from paramtree.checkpoint import atomic

FILES = ["x.safetensors", "x.npz", "x.safetensors.index.json"]
each_file = pytest.mark.parametrize("name", FILES)
SIZE = 100_000  # numbers in each of two arrays
KILLS = 80  # of the savers of each file
KILLED = -signal.SIGKILL

SERVER = f"""
import errno, json, os, resource, signal, sys
import numpy as np
import paramtree as pt
from paramtree.checkpoint import atomic

def tree(number):
    array = np.full({SIZE}, number, np.float32)
    return {{"a": {{"w": array}}, "b": array}}

for line in sys.stdin:
    started, start = os.pipe()
    child = os.fork()  # no backend of JAX runs yet, and none is needed for arrays of NumPy
    if not child:
        os.write(start, b"x")
        exec(json.loads(line))
        os._exit(0)
    os.read(started, 1)
    os.close(started)
    os.close(start)
    print(child, flush=True)
    if json.loads(sys.stdin.readline()) == "kill":
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Server:
    """A process that has imported all that is needed, and runs each program in a fork of itself."""

    def __init__(self):
        environment = os.environ | {"PYTHONPATH": str(Path(pt.__file__).parents[1])}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def ask(self, value):
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def answer(self):
        return int(self.process.stdout.readline())

    def start(self, program):
        self.ask(program)
        return self.answer()

    def end(self, how="wait"):
        self.ask(how)
        return self.answer()

    def run(self, program):
        self.start(program)
        return self.end()

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def servers():
    pair = [Server(), Server()]
    yield pair
    for each in pair:
        each.close()


@pytest.fixture
def server(servers):
    return servers[0]


def tree(number):
    array = np.full(SIZE, number, np.float32)
    return {"a": {"w": array}, "b": array}


def number_in(file):
    """Give the number that a whole file of `tree` is made of."""
    try:
        loaded = pt.load(file)
    except pt.ParamTreeError as error:  # a saver came between the file's headers and its values
        if "has changed" not in str(error):
            raise
        return number_in(file)
    numbers = {value for leaf in (loaded["a"]["w"], loaded["b"]) for value in np.unique(np.asarray(leaf))}
    assert len(numbers) == 1
    assert loaded["a"]["w"].shape == loaded["b"].shape == (SIZE,)
    return int(numbers.pop())


def hidden(folder):
    return [name for name in os.listdir(folder) if name.startswith(".")]


def left_in(folder):
    """List a directory, but for the shards that an index in it names."""
    named = {
        shard
        for index in folder.glob("*.index.json")
        for shard in json.loads(index.read_text())["weight_map"].values()
    }
    return sorted(set(os.listdir(folder)) - named)


def left_behind(server, file):
    """Kill a saver of a file in the middle of its work, and give the directory that it leaves."""
    before = set(hidden(file.parent))
    program = "os.kill(os.getpid(), signal.SIGKILL)"
    code = f"def write(place):\n    {program}\natomic.replace_file(atomic.Path({str(file)!r}), write)"
    assert server.run(code) == KILLED
    (left,) = set(hidden(file.parent)) - before
    return file.with_name(left)


# --- killed -------------------------------------------------------------------------------------------------


@each_file
def test_a_saver_killed_at_any_moment_leaves_the_old_file_or_the_new_one(name, server, tmp_path):
    file = tmp_path / name
    dice = random.Random(0)
    durations = []
    for number in range(4):
        start = time.perf_counter()
        assert server.run(f"pt.save(tree({number}), {str(file)!r})") == 0
        durations.append(time.perf_counter() - start)
    outcomes = set()
    for number in range(4, 4 + KILLS):
        old = number_in(file)
        server.start(f"pt.save(tree({number}), {str(file)!r})")
        time.sleep(dice.uniform(0, 1.1 * min(durations)))
        server.end("kill")
        found = number_in(file)
        assert found in (old, number)
        assert len(hidden(tmp_path)) <= 1  # of this saver; those before it are removed
        outcomes.add("new" if found == number else "old with a rest" if hidden(tmp_path) else "old")
    assert {"new", "old with a rest"} <= outcomes  # else the moments were not well chosen
    pt.save(tree(0), file)
    assert hidden(tmp_path) == []


STEPS = """
count = 0
def at_line(frame, event, argument):
    global count
    if frame.f_code.co_filename != atomic.__file__:
        return None
    if event == "line":
        count += 1
        if count > {steps}:
            os.kill(os.getpid(), signal.SIGKILL)
    return at_line
sys.settrace(at_line)
{save}
"""


def killed_before_every_line(server, save):
    """Run a program again and again, killed before the first, second... line of `atomic`; count the lines."""
    steps = 0
    while server.run(STEPS.format(steps=steps, save=save)) == KILLED:
        yield steps
        steps += 1


def test_a_saver_of_a_file_killed_before_any_line(server, tmp_path):
    file = tmp_path / "x.npz"
    pt.save(tree(1), file)
    found = [number_in(file) for _ in killed_before_every_line(server, f"pt.save(tree(2), {str(file)!r})")]
    assert found == sorted(found)
    assert set(found) == {1, 2}
    assert hidden(tmp_path) == []


FOLDER = """
def write(place):
    for name in ("one", "sub/two"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text({text!r})
atomic.replace_folder(atomic.Path({path!r}), write)
"""


def text_in(folder):
    """Give the text that all files of a whole folder hold."""
    folder = atomic.whole_folder(folder)
    one, two = (folder / "one").read_text(), (folder / "sub" / "two").read_text()
    assert one == two
    return one


def test_a_saver_of_a_directory_killed_before_any_line(server, tmp_path):
    folder = tmp_path / "x"
    assert server.run(FOLDER.format(path=str(folder), text="old")) == 0
    moved_aside = False
    found = []
    for _ in killed_before_every_line(server, FOLDER.format(path=str(folder), text="new")):
        moved_aside |= not folder.exists()
        found.append(text_in(folder))
    assert found == sorted(found, reverse=True)
    assert set(found) == {"old", "new"}
    assert moved_aside  # there is such a moment, and it was found
    assert os.listdir(tmp_path) == ["x"]


def test_a_saver_of_a_directory_after_one_killed_between_the_two_moves(server, tmp_path):
    folder = tmp_path / "x"
    assert server.run(FOLDER.format(path=str(folder), text="old")) == 0
    for steps in range(1000):
        assert (
            server.run(STEPS.format(steps=steps, save=FOLDER.format(path=str(folder), text="new"))) == KILLED
        )
        if not folder.exists():
            break
    for _ in range(3):  # killed again, before it moves anything
        assert server.run(STEPS.format(steps=20, save=FOLDER.format(path=str(folder), text="new"))) == KILLED
        assert text_in(folder) == "old"
    assert server.run(FOLDER.format(path=str(folder), text="newest")) == 0
    assert text_in(folder) == "newest"
    assert os.listdir(tmp_path) == ["x"]


# --- what killed savers leave behind ------------------------------------------------------------------------


LONG = "x" * 251 + ".npz"


@pytest.mark.parametrize("name", [*FILES, LONG, "[x]*.npz", "ü 名.npz"])
def test_the_next_save_of_a_file_removes_what_was_left(name, server, tmp_path):
    file = tmp_path / name
    left = left_behind(server, file)
    for other in ("y.npz", "x.npz.npz", "xxnpz.npz", f"{'0' * 32}.npz"):
        pt.save({"a": np.ones(1, np.float32)}, tmp_path / other)
    assert left.is_dir()
    pt.save({"a": np.ones(1, np.float32)}, file)
    assert hidden(tmp_path) == []


def test_what_a_living_saver_writes_is_not_removed(server, tmp_path):
    file = tmp_path / "x.npz"
    left = left_behind(server, file)

    def write(place):
        assert not left.exists()
        place.write_bytes(b"half")
        pt.save(tree(1), file)  # a second saver begins and ends while the first one writes
        assert number_in(file) == 1
        assert place.read_bytes() == b"half"
        place.write_bytes(file.read_bytes())

    atomic.replace_file(file, write)
    assert number_in(file) == 1
    assert os.listdir(tmp_path) == ["x.npz"]


def test_a_living_saver_in_another_process(servers, tmp_path):
    file = tmp_path / "x.npz"
    first, second = servers
    first.start(
        "def write(place):\n    place.write_bytes(b'half')\n    signal.pause()\n"
        f"atomic.replace_file(atomic.Path({str(file)!r}), write)"
    )
    while not list(tmp_path.glob(".*/x.npz")):
        time.sleep(0.01)
    assert second.run(f"pt.save(tree(2), {str(file)!r})") == 0
    assert len(hidden(tmp_path)) == 1
    assert first.end("kill") == KILLED
    assert second.run(f"pt.save(tree(3), {str(file)!r})") == 0
    assert os.listdir(tmp_path) == ["x.npz"]


def test_other_hidden_files_are_not_touched(tmp_path):
    others = [
        ".x.npz",
        ".x.npz.partial",
        f".x.npz.{'g' * 32}.partial",
        f".xxnpz.{'0' * 32}.partial",
        ".x.npz.old",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    target = tmp_path / "kept"
    target.mkdir()
    (target / "file").touch()
    link = tmp_path / f".x.npz.{'0' * 32}.partial"
    link.symlink_to(target)
    pt.save(tree(1), tmp_path / "x.npz")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, link.name, "kept", "x.npz"])
    assert (target / "file").exists()


def test_a_system_without_locks_saves_and_leaves_what_was_left(server, tmp_path, monkeypatch):
    file = tmp_path / "x.npz"
    left = left_behind(server, file)
    with monkeypatch.context() as patch:
        patch.setattr(atomic.sys, "platform", "win32")
        pt.save(tree(1), file)
    assert sorted(os.listdir(tmp_path)) == sorted([left.name, "x.npz"])

    def refuse(descriptor, flags):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.fcntl, "flock", refuse)
        pt.save(tree(2), file)
    assert sorted(os.listdir(tmp_path)) == sorted([left.name, "x.npz"])
    assert number_in(file) == 2


def test_a_sweep_that_is_faster_than_the_lock(tmp_path, monkeypatch):
    made = []
    mkdir = Path.mkdir

    def mkdir_and_lose_the_first(self):
        mkdir(self)
        made.append(self)
        if len(made) == 1:
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir_and_lose_the_first)
    pt.save(tree(1), tmp_path / "x.npz")
    assert len(made) == 2
    assert number_in(tmp_path / "x.npz") == 1
    assert os.listdir(tmp_path) == ["x.npz"]


# --- a full disk --------------------------------------------------------------------------------------------


FULL = """
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    pt.save(tree(2), {file!r})
except OSError as error:
    assert error.errno == errno.EFBIG, error
else:
    raise AssertionError("no error")
"""


@each_file
@pytest.mark.parametrize("limit", [0, 100, 300_000, 799_999])
def test_a_full_disk_raises_and_leaves_the_old_file(name, limit, server, tmp_path):
    file = tmp_path / name
    assert server.run(FULL.format(limit=limit, file=str(file))) == 0
    assert os.listdir(tmp_path) == []
    pt.save(tree(1), file)
    old = file.read_bytes()
    assert server.run(FULL.format(limit=limit, file=str(file))) == 0
    assert file.read_bytes() == old
    assert left_in(tmp_path) == [name]


def test_a_directory_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "old").touch()
    replace = os.replace

    def fail(source, target):
        if target == folder and source.parent != tmp_path:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        atomic.replace_folder(folder, Path.mkdir)
    assert os.listdir(folder) == ["old"]
    assert os.listdir(tmp_path) == ["x"]


# --- two savers ---------------------------------------------------------------------------------------------


@each_file
def test_two_processes_that_save_to_one_file(name, servers, tmp_path):
    file = tmp_path / name
    pt.save(tree(0), file)
    for first, each in ((1, servers[0]), (101, servers[1])):
        each.start(f"for number in range({first}, {first} + 50):\n    pt.save(tree(number), {str(file)!r})")
    codes = []
    waiters = [threading.Thread(target=lambda each=each: codes.append(each.end())) for each in servers]
    for each in waiters:
        each.start()
    seen = set()
    try:
        while any(each.is_alive() for each in waiters):
            seen.add(number_in(file))
    finally:
        for each in waiters:
            each.join()
    assert codes == [0, 0]
    assert number_in(file) in (50, 150)
    assert len(seen) > 5
    assert left_in(tmp_path) == [name]


@each_file
def test_threads_that_save_to_one_file(name, tmp_path):
    file = tmp_path / name

    def save(first):
        for number in range(first, first + 5):
            pt.save(tree(number), file)

    threads = [threading.Thread(target=save, args=(10 * number,)) for number in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert number_in(file) % 10 == 4
    assert left_in(tmp_path) == [name]


def test_processes_that_save_to_one_directory(servers, tmp_path):
    folder = tmp_path / "x"
    for text, each in zip("ab", servers, strict=True):
        save = FOLDER.format(path=str(folder), text=text).replace("\n", "\n    ")
        each.start(f"for _ in range(100):{save}")
    assert [each.end() for each in servers] == [0, 0]
    assert text_in(folder) in "ab"
    assert os.listdir(tmp_path) == ["x"]
