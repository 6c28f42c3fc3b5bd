"""Work shared out to threads: the same results as without, in order, without gradient."""

import threading

import pytest
import torch

from xattn.runtime.threads import mapped_on_threads


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_without_gradient_from_threads_of_one(threads):
    weight = torch.ones(3, requires_grad=True)
    at_once = threading.Barrier(threads)

    def scaled(number):
        if number < threads:
            at_once.wait(10)  # as many as there are threads are at work together
        return (weight * number).sum(), torch.get_num_threads()

    found = list(mapped_on_threads(scaled, iter(range(7))))
    assert [float(value) for value, _ in found] == [3.0 * number for number in range(7)]
    assert not any(value.requires_grad for value, _ in found)
    assert {number for _, number in found} == {1}
    assert torch.get_num_threads() == threads


def test_a_failure_is_the_callers(threads):
    def fail(number):
        raise ValueError(f"of {number}")

    with pytest.raises(ValueError, match="of 0"):
        list(mapped_on_threads(fail, [0, 1]))


def test_another_device_is_used_from_here(threads):
    found = list(mapped_on_threads(lambda _: threading.get_ident(), [0, 1], torch.device("meta")))
    assert set(found) == {threading.get_ident()}
