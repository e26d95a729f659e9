"""``electra-ds doctor``: the same command by hand and under any launcher."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from electra_ds.command_line import bare_flag, parse, print_error
from electra_ds.distributed import Place, find_place, leave
from electra_ds.doctor.channel import Schedule
from electra_ds.doctor.config import DoctorConfig
from electra_ds.errors import UserError
from electra_ds.lives import BAD_NODES, DONE, FAILED, USER_ERROR, node_name, record_failure

if TYPE_CHECKING:
    from electra_ds.doctor.coordinator import Gathered
    from electra_ds.doctor.findings import Finding


def main(arguments: list[str], program: str) -> int:
    """Look, and say what is good, doubtful and bad.

    The first rank speaks and ends with the verdict's status: 0 nothing bad, 2 something bad, and for ``--preflight``
    79 if nodes are to blame (see `preflight`). Another rank ends with 0 if it came to the end (under
    mpirun with the verdict's status too), else with 2 (79 for ``--preflight``: a node is at fault, its own or the
    first) and its own error.

    This does not return: threads may still wait, for a file system or a peer, so every rank ends by
    `distributed.leave`.
    """
    arguments = bare_flag(arguments, "--preflight")
    if any(argument in ("-h", "--help") for argument in arguments):
        parse(DoctorConfig, arguments, program)
    start = time.monotonic()
    place = find_place()
    try:
        config = parse(DoctorConfig, arguments, program)
    except UserError:
        if place.is_first:
            raise
        leave(USER_ERROR)
    leave(_run(config, place, Schedule(timeout=config.timeout, start=start)))


def _run(config: DoctorConfig, place: Place, schedule: Schedule) -> int:
    # Broken connections are told in our words; the library's C++ warnings would tell each twice.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        return _lead(config, place, schedule) if place.is_first else _follow(config, place, schedule)
    except UserError as error:
        print_error(error)
        if config.preflight:
            record_failure(place.rank, "error", str(error))
        return BAD_NODES if config.preflight else USER_ERROR
    except Exception:
        sys.stderr.write(f"rank {place.rank} of {place.world_size} on {node_name()} failed:\n")
        traceback.print_exc()
        return FAILED


def _follow(config: DoctorConfig, place: Place, schedule: Schedule) -> int:
    from electra_ds.doctor.participant import Participant

    participant = Participant(config, place, schedule)
    participant.start()
    if problem := participant.join(schedule.left()):
        raise UserError(problem)
    # MPICH's mpirun returns the first or the last status at random, so there all ranks give the same. Under srun a rank
    # that ends with another than 0 would have the first one killed (--kill-on-bad-exit), and its status lost.
    return participant.verdict if place.launcher == "mpirun" else DONE


def _lead(config: DoctorConfig, place: Place, schedule: Schedule) -> int:
    from electra_ds.doctor.coordinator import Coordinator
    from electra_ds.doctor.findings import exit_status
    from electra_ds.doctor.judging import judge
    from electra_ds.doctor.participant import Participant

    coordinator = Coordinator(config, place, schedule)
    participant = Participant(config, place, schedule)
    participant.start()
    got = coordinator.gather()
    findings = judge(got)
    status = exit_status(findings, config.preflight)
    try:
        _tell(config, got, findings)
    finally:
        coordinator.end(status)
    if participant.problem:
        print_error(UserError(participant.problem))
    return status or (USER_ERROR if participant.problem else DONE)


def _tell(config: DoctorConfig, got: Gathered, findings: Sequence[Finding]) -> None:
    from electra_ds.doctor.findings import BAD, worst
    from electra_ds.doctor.preflight import write_preflight
    from electra_ds.doctor.report import everything, one_line, report
    from electra_ds.files import write_json

    if config.preflight:
        write_preflight(got, findings)
    quiet = config.preflight and worst(findings) != BAD
    print(one_line(got, findings) if quiet else report(got, findings, brief=config.preflight), flush=True)
    if config.json is not None:
        write_json(config.json, everything(got, findings))
