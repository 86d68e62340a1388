"""A scheduler that stops a run is asked to start it again."""

import os
import subprocess


def requeue() -> str:
    """Ask the scheduler to start this job again, where it must be asked; returns what came of it,
    in words. SLURM must be. Kubernetes and other launchers start again what ends with another code
    than 0, as a run does that was stopped.
    """
    job = slurm_job()
    if job is None:
        return "no job of SLURM: whoever started it starts it again"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        return f"job {job} was not requeued: there is no scontrol here"
    except subprocess.CalledProcessError as error:
        return f"job {job} was not requeued: {error.stderr.strip() or error}"
    return f"job {job} is requeued, and goes on from there"


def slurm_job() -> str | None:
    """The job of SLURM that this process is of, a single one of an array; None: it is of none."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
