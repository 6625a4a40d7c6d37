"""Runs a stateful test of hypothesis, in rounds, and records what its machines counted."""

from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

ROUND = 500  # examples; hypothesis remembers each choice of a round, and is slow and large in the end


def run_machine(
    machine: type[RuleBasedStateMachine], examples: int, steps: int, counted: Counter[str], record: Callable[..., None]
) -> None:
    """So many examples of at most so many steps."""
    for begin in range(0, examples, ROUND):
        config = settings(
            max_examples=min(ROUND, examples - begin),
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            phases=[phase for phase in settings().phases if phase is not Phase.explain],  # which takes minutes
        )
        run_state_machine_as_test(machine, settings=config)
    counted["examples"] = examples
    for name, number in counted.items():
        record(name, number)
