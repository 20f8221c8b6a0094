"""Ctrl-C: the first asks, the second ends; in a command, in a Python session, and where it is ignored."""

import os
import signal
import subprocess
import sys

import pytest
from helpers import ROOT

from fairat_lightning.running import signals
from fairat_lightning.running.signals import SAVING, SIGNALS, StopRequest

# A command whose work is a loop: hears as a training does, and says what it has heard.
PROGRAM = """
import signal, sys, time
from fairat_lightning.commands.errors import ending
from fairat_lightning.running.signals import Preempted, StopRequest
request = StopRequest()
with ending(), request.listening():
    print("ready", flush=True)
    for _ in range(2000):
        time.sleep(0.01)
        if request.asked and "saves" in sys.argv:
            raise Preempted
        if request.asked:
            print("asked", flush=True)
            while True:
                sum(range(1000))
"""


def begun(*words, before=signal.default_int_handler):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, before),  # also where the tests run in the background
    )
    assert command.stdout.readline() == "ready\n"
    return command


def test_the_first_ctrl_c_asks_and_says_so():
    command = begun("saves")
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=30)
    assert command.returncode == 75 and err.strip() == SAVING and not out


def test_the_second_ctrl_c_ends_the_process_at_once():
    command = begun()
    command.send_signal(signal.SIGINT)
    assert command.stdout.readline() == "asked\n"
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=30)
    assert command.returncode == -signal.SIGINT and err.strip() == SAVING and not out


def test_sigterm_is_no_ctrl_c():
    """A launcher's process gets one from the sweep, beside the terminal's Ctrl-C: together they are one."""
    command = begun()
    command.send_signal(signal.SIGTERM)
    assert command.stdout.readline() == "asked\n"
    command.send_signal(signal.SIGTERM)
    command.send_signal(signal.SIGINT)
    assert command.stderr.read(len(SAVING) + 1).strip() in SAVING  # it lives, and hears
    command.kill()
    command.communicate()


def test_ctrl_c_stays_ignored_in_the_background_of_a_script():
    command = begun("saves", before=signal.SIG_IGN)
    command.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        command.wait(0.3)
    command.send_signal(signal.SIGTERM)
    assert command.wait(30) == 75
    command.communicate()


def test_in_a_python_session_the_second_ctrl_c_is_python_s(monkeypatch, capfd):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request = StopRequest()
    try:
        with pytest.raises(KeyboardInterrupt), request.listening():
            signal.raise_signal(signal.SIGINT)
            assert request.asked
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_one_process_of_several_speaks(monkeypatch, capfd):
    monkeypatch.setenv("LOCAL_RANK", "1")
    signals.say_saving()
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("LOCAL_RANK", "0")
    signals.say_saving()
    assert SAVING in capfd.readouterr().err


def test_the_signals_are_those_that_the_system_has():
    assert SIGNALS == (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    program = "import signal; del signal.SIGUSR1, signal.SIGUSR2; from fairat_lightning.running.signals import *; print(*SIGNALS)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "15"]
