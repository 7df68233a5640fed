"A function for other processes, in a module that imports little."

import os
import signal


def crash_at_100(numbers):
    "The numbers; kills its process where 100 is among them."
    if 100 in numbers:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    return numbers
