"""Owns what a process knows of its share of the machine: cores, and the others of a launch; starts none itself.

`accelerate launch` and `torchrun` say it in the environment. The first process plans, prints and writes; the others
only train with it.
"""

import os


def process() -> int:
    """Returns this process's number in the launch; the first one, and one that was started alone, is 0."""
    return int(os.environ.get("RANK", "0")) if processes() > 1 else 0  # some schedulers set it for other ends


def processes() -> int:
    """Returns how many processes the launch started, 1 where there was none."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device_index() -> int:
    """Returns which of its machine's GPUs this process takes."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
