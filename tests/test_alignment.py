"""The transport cost against exact solvers, finite differences and sums by hand."""

import ot
import pytest
import torch

from espnet_part.alignment import pair_costs, sinkhorn_plan, transport_cost


def sides(rows, width=8, dtype=torch.float64, seed=0):
    """Random features of rows of (S, T) positions; padding is loud."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(rows)
    out = []
    for side in (0, 1):
        longest = int(lengths[:, side].max())
        shape = (len(rows), longest + 2, width)
        features = torch.randn(*shape, generator=generator, dtype=torch.float64) * 3
        features[torch.arange(longest + 2) >= lengths[:, side, None]] = 1e3
        out += [features.to(dtype), lengths[:, side]]
    return out


def test_close_to_the_exact_cost():
    x, x_lengths, y, y_lengths = sides([(30, 9), (12, 12), (7, 20)])
    cost = pair_costs(x, x_lengths, y, y_lengths, 1.0)
    errors = {}
    for epsilon, iterations in ((0.05, 50), (0.01, 400)):
        found = transport_cost(x, x_lengths, y, y_lengths, epsilon, iterations, 1.0)
        for b, (n, m) in enumerate(zip(x_lengths.tolist(), y_lengths.tolist(), strict=True)):
            exact = ot.emd2(ot.unif(n), ot.unif(m), cost[b, :n, :m].numpy())
            errors[epsilon, b] = float(found[b]) / exact - 1
    # A regularized plan is never cheaper than the best one, but for its error in the masses.
    assert all(-1e-4 < error < 0.06 for error in errors.values()), errors
    assert all(errors[0.01, b] < 0.006 for b in range(3)), errors
    assert all(errors[0.05, b] > errors[0.01, b] for b in range(3))


def test_the_plan_is_that_of_pot():
    x, x_lengths, y, y_lengths = sides([(15, 6), (4, 9)])
    cost = pair_costs(x, x_lengths, y, y_lengths, 0.5)
    plan = sinkhorn_plan(cost, x_lengths, y_lengths, torch.tensor([0.1, 0.2]), 500)
    for b, epsilon in enumerate((0.1, 0.2)):
        n, m = int(x_lengths[b]), int(y_lengths[b])
        wanted = ot.sinkhorn(
            ot.unif(n), ot.unif(m), cost[b, :n, :m].numpy(), epsilon, "sinkhorn_log", stopThr=1e-12
        )
        torch.testing.assert_close(plan[b, :n, :m], torch.from_numpy(wanted), atol=1e-8, rtol=1e-6)


def test_masses():
    x, x_lengths, y, y_lengths = sides([(30, 9), (7, 20), (1, 5), (6, 1), (1, 1)])
    cost = pair_costs(x, x_lengths, y, y_lengths, 1.0)
    plan = sinkhorn_plan(cost, x_lengths, y_lengths, torch.full((5,), 0.1), 200)
    for b, (n, m) in enumerate(zip(x_lengths.tolist(), y_lengths.tolist(), strict=True)):
        rows, columns = (torch.zeros(side.shape[1], dtype=torch.float64) for side in (x, y))
        rows[:n], columns[:m] = 1 / n, 1 / m
        torch.testing.assert_close(plan[b].sum(1), rows, atol=1e-5, rtol=0)
        torch.testing.assert_close(plan[b].sum(0), columns, atol=1e-12, rtol=0)


def test_by_hand():
    """One position against others: all mass goes there, and the cost is the mean distance."""
    x = torch.tensor([[[2.0, 0.0]]])
    y = torch.tensor([[[5.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]])
    ones, threes = torch.tensor([1]), torch.tensor([3])
    # Squared distances of unit vectors 0, 2, 4; places 0 against 0, 1/2, 1.
    assert float(transport_cost(x, ones, y, threes, position=0.0)) == pytest.approx(2.0, rel=1e-6)
    wanted = (0 + 2 + 4) / 3 + 4 * (0 + 0.25 + 1) / 3
    assert float(transport_cost(x, ones, y, threes, position=2.0)) == pytest.approx(
        wanted, rel=1e-6
    )
    same = torch.eye(4)[None]
    fours = torch.tensor([4])
    assert float(transport_cost(same, fours, same, fours, 0.01, 200)) < 1e-6
    assert float(transport_cost(x, ones, x, ones)) == pytest.approx(0.0, abs=1e-6)


def test_position_draws_to_the_diagonal():
    """Two words said twice: only their place tells which is which."""
    x = torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1]][None]
    fours, none = torch.tensor([4]), torch.tensor([0.02])
    without = sinkhorn_plan(pair_costs(x, fours, x, fours, 0.0), fours, fours, none, 200)[0]
    placed = sinkhorn_plan(pair_costs(x, fours, x, fours, 1.0), fours, fours, none, 200)[0]
    assert float(without.diagonal().sum()) == pytest.approx(0.5, abs=1e-6)
    assert float(placed.diagonal().sum()) > 0.99


@pytest.mark.parametrize("detached", [False, True])
def test_gradient_is_that_of_the_entropic_objective(detached):
    """By finite differences of min <P, C> + eps KL(P | a b) at the eps that the row had."""
    x, x_lengths, y, y_lengths = sides([(6, 4), (5, 7)], width=3)
    epsilon, iterations = 0.1, 600

    def costs(x, y):
        return pair_costs(x, x_lengths, y, y_lengths, 1.0)

    real = [
        (b, slice(n), slice(m)) for b, (n, m) in enumerate(zip(x_lengths, y_lengths, strict=True))
    ]
    eps = torch.stack([epsilon * costs(x, y)[at].mean() for at in real])

    def objective(x, y):
        cost = costs(x, y)
        plan = sinkhorn_plan(cost, x_lengths, y_lengths, eps, iterations)
        total = 0.0
        for at, e in zip(real, eps, strict=True):
            p = plan[at]
            total += (p * cost[at]).sum() + e * (p * (p * p.numel()).log()).sum()
        return float(total)

    x.requires_grad_(), y.requires_grad_(not detached)
    transport_cost(x, x_lengths, y, y_lengths, epsilon, iterations, 1.0).sum().backward()
    checked = 0
    for tensor, lengths in ((x, x_lengths), (y, y_lengths)):
        if not tensor.requires_grad:
            continue
        for b, t, d in ((0, 0, 0), (0, 3, 1), (1, 2, 2), (1, 4, 0)):
            if t >= lengths[b]:
                continue
            step, values = 1e-5, []
            for sign in (1, -1):
                moved = {id(x): x.detach().clone(), id(y): y.detach().clone()}
                moved[id(tensor)][b, t, d] += sign * step
                values.append(objective(moved[id(x)], moved[id(y)]))
            wanted = (values[0] - values[1]) / (2 * step)
            assert float(tensor.grad[b, t, d]) == pytest.approx(wanted, rel=1e-4, abs=1e-9)
            checked += abs(wanted) > 1e-5
    assert checked >= (3 if detached else 6)


def test_a_row_does_not_depend_on_its_batch():
    rows = [(30, 9), (7, 20), (1, 5), (6, 1), (1, 1)]
    x, x_lengths, y, y_lengths = sides(rows, dtype=torch.float32)
    x.requires_grad_(), y.requires_grad_()
    together = transport_cost(x, x_lengths, y, y_lengths)
    together.sum().backward()
    assert not together.isnan().any() and not x.grad.isnan().any()
    for b, (n, m) in enumerate(rows):
        a = x[b : b + 1, :n].detach().requires_grad_()
        c = y[b : b + 1, :m].detach().requires_grad_()
        alone = transport_cost(a, x_lengths[b : b + 1], c, y_lengths[b : b + 1])
        alone.backward()
        torch.testing.assert_close(alone[0], together[b], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(a.grad[0], x.grad[b, :n], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(c.grad[0], y.grad[b, :m], rtol=1e-4, atol=1e-6)
        assert not x.grad[b, n:].any() and not y.grad[b, m:].any()


@pytest.mark.parametrize("loud", [float("nan"), float("inf")])
def test_padding_is_not_read(loud):
    """Whatever stands there, cost and gradients are those of the rows without it."""
    rows = [(30, 9), (7, 20), (1, 5), (6, 1), (1, 1)]
    x, x_lengths, y, y_lengths = sides(rows)
    for side, lengths in ((x, x_lengths), (y, y_lengths)):
        side[torch.arange(side.shape[1]) >= lengths[:, None]] = loud
        side.requires_grad_()
    found = transport_cost(x, x_lengths, y, y_lengths)
    found.sum().backward()
    for b, (n, m) in enumerate(rows):
        a = x[b : b + 1, :n].detach().requires_grad_()
        c = y[b : b + 1, :m].detach().requires_grad_()
        alone = transport_cost(a, x_lengths[b : b + 1], c, y_lengths[b : b + 1])
        alone.backward()
        torch.testing.assert_close(found[b], alone[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(x.grad[b, :n], a.grad[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(y.grad[b, :m], c.grad[0], rtol=1e-9, atol=1e-12)
        assert torch.equal(x.grad[b, n:], torch.zeros_like(x.grad[b, n:]))
        assert torch.equal(y.grad[b, m:], torch.zeros_like(y.grad[b, m:]))


def test_the_plan_does_not_read_padding():
    x, x_lengths, y, y_lengths = sides([(15, 6), (4, 9)])
    cost, epsilon = pair_costs(x, x_lengths, y, y_lengths, 1.0), torch.tensor([0.1, 0.2])
    wanted = sinkhorn_plan(cost, x_lengths, y_lengths, epsilon, 50)
    for b, (n, m) in enumerate(zip(x_lengths.tolist(), y_lengths.tolist(), strict=True)):
        cost[b, n:], cost[b, :, m:] = torch.nan, torch.nan
    assert torch.equal(sinkhorn_plan(cost, x_lengths, y_lengths, epsilon, 50), wanted)


def test_float32_within_autocast():
    x, x_lengths, y, y_lengths = sides([(12, 5), (9, 6)], dtype=torch.bfloat16)
    wanted = transport_cost(x.double(), x_lengths, y.double(), y_lengths)
    with torch.autocast("cpu", torch.bfloat16):
        found = transport_cost(x, x_lengths, y, y_lengths)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted.float(), rtol=1e-5, atol=1e-6)


def test_scale_does_not_matter():
    """Residual streams grow with depth; directions are compared, and eps follows the cost."""
    x, x_lengths, y, y_lengths = sides([(12, 5)])
    wanted = transport_cost(x, x_lengths, y, y_lengths)
    torch.testing.assert_close(transport_cost(100 * x, x_lengths, 0.01 * y, y_lengths), wanted)


def test_zero_vectors_and_empty_rows():
    x, x_lengths, y, y_lengths = sides([(3, 2)])
    cost = transport_cost(0 * x, x_lengths, y, y_lengths, position=0.0)
    assert float(cost) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"lengths \[0\] and \[2\]; leave such rows out"):
        transport_cost(x, torch.tensor([0]), y, y_lengths)
