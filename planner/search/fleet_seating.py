"""Seats of replicas chosen together, exactly: a quadratic assignment made linear.

x[i, s] = 1 where replica i takes seat s, z[i, s, j, t] = x[i, s] x[j, t] for partners i and j:

- sum over s of x[i, s] = 1; every device of a seat at most once
- sum over t of z[i, s, j, t] = x[i, s]; sum over s of z[i, s, j, t] = x[j, t]
- minimise the sum of weight[i, j] / bandwidth(s, t) times z

Source: W. P. Adams and H. D. Sherali, A tight linearization for zero-one quadratic programming, 1986.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ortools.math_opt.python import mathopt

from planner.search.mip import Expression, at_most, exactly, solve_with_highs, total

MOST_PRODUCTS = 12_000
"""Products of two choices up to which seats are chosen exactly."""
_SECONDS = 10.0
_LEAVING = 1e-6
"""What it counts to change a seat, against the slowest transfer."""
Seat = tuple[str, ...]
Pairs = Mapping[tuple[int, int], float]


def num_products(seats: Sequence[Sequence[Seat]], pairs: Pairs) -> int:
    """Return how many products of two choices the program has."""
    return sum(len(seats[one]) * len(seats[other]) for one, other in pairs)


def best_seats(
    seats: Sequence[Sequence[Seat]],
    current: Sequence[Seat],
    pairs: Pairs,
    bandwidth: Callable[[str, str], float],
) -> list[Seat] | None:
    """Return one seat per replica with the shortest transfers, None if no proof was found in time.

    `seats` lists where each replica may sit, `pairs` the weight of each pair that exchanges anything. A
    replica leaves its `current` seat only for a reason.
    """
    model = mathopt.Model()
    chosen = [[model.add_binary_variable() for _ in own] for own in seats]
    by_device: dict[str, list[Expression]] = {}
    for own, variables in zip(seats, chosen, strict=True):
        exactly(model, variables, 1.0)
        for seat, variable in zip(own, variables, strict=True):
            for device in seat:
                by_device.setdefault(device, []).append(variable)
    for users in by_device.values():
        if len(users) > 1:
            at_most(model, users, 1.0)
    products = [
        (weight / bandwidth(first, second), product)
        for pair, weight in pairs.items()
        for first, second, product in _products(model, pair, seats, chosen)
        if first != second
    ]
    largest = max((seconds for seconds, _ in products), default=1.0)
    leaving: list[Expression] = [
        _LEAVING * variable
        for own, variables, now in zip(seats, chosen, current, strict=True)
        for seat, variable in zip(own, variables, strict=True)
        if seat != now
    ]
    model.minimize(total([*(seconds / largest * product for seconds, product in products), *leaving]))
    result = solve_with_highs(model, _SECONDS, 1e-6)
    if result.termination.reason != mathopt.TerminationReason.OPTIMAL:
        return None
    return [
        own[max(range(len(own)), key=lambda at, v=variables: result.variable_values(v[at]))]
        for own, variables in zip(seats, chosen, strict=True)
    ]


def _products(
    model: mathopt.Model,
    pair: tuple[int, int],
    seats: Sequence[Sequence[Seat]],
    chosen: Sequence[Sequence[mathopt.Variable]],
) -> Iterator[tuple[str, str, mathopt.Variable]]:
    """Add the products of the choices of two replicas; yield the nodes of each with its variable."""
    one, other = pair
    both = [[model.add_variable(lb=0.0) for _ in seats[other]] for _ in seats[one]]
    for row, variable in zip(both, chosen[one], strict=True):
        exactly(model, [*row, -1.0 * variable], 0.0)
    for at, variable in enumerate(chosen[other]):
        exactly(model, [*(row[at] for row in both), -1.0 * variable], 0.0)
    for seat, row in zip(seats[one], both, strict=True):
        for there, product in zip(seats[other], row, strict=True):
            yield _node(seat), _node(there), product


def _node(seat: Seat) -> str:
    return seat[0].rpartition("/")[0]
