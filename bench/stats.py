"""Clocks, cores and figures."""

import os
import statistics
import time

wall_clock = time.monotonic


def cpu_clock(pid):
    """Seconds of CPU time that a process has used, to the nanosecond: the clock
    that clock_getcpuclockid(3) names."""
    return time.clock_gettime((~pid << 3) | 2)


def pin(pids, cores):
    for pid in pids:
        os.sched_setaffinity(pid, cores)


def spread(values, unit=1.0, digits=2):
    """median (min–max)"""
    low, middle, high = (f"{v * unit:.{digits}f}"
                         for v in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}–{high})"


def median(values):
    return statistics.median(values)


def table(headings, rows):
    lines = ["| " + " | ".join(headings) + " |",
             "|" + "|".join("---" if i == 0 else "---:" for i in range(len(headings))) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
