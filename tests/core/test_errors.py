"Stopping between two steps: signals are recorded, and only where they can arrive."

import os
import signal
import threading

from radgen.core.errors import ConfigError, first_line, stop_signals


def test_stop_signals_records_signals_and_restores_the_handlers():
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    with stop_signals() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
    assert received == [signal.SIGTERM, signal.SIGUSR1]
    assert {name: signal.getsignal(name) for name in before} == before


def test_stop_signals_works_in_another_thread():
    results = []

    def work():
        with stop_signals() as received:
            results.append(list(received))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [[]]


def test_first_line_is_short_or_the_name_of_the_error():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ConfigError()) == "ConfigError"
    assert len(first_line(ValueError("x" * 500))) == 120
