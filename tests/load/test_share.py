"""Lines are dealt to clients, and to requests, without one being dropped or doubled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from loads import lines_of

from imdb_serving.load.workload import ReviewWorkload, split_lines


@given(st.integers(0, 200), st.integers(1, 40), st.integers(1, 17))
def test_shares_partition_the_lines_in_order(count: int, clients: int, batch: int) -> None:
    lines = lines_of(count)
    shares = split_lines(lines, clients, batch)
    assert len(shares) == clients
    assert [line for part in shares for line in part] == lines


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 17))
def test_shares_are_even_and_only_the_last_batch_is_short(count: int, clients: int, batch: int) -> None:
    shares = split_lines(lines_of(count), clients, batch)
    requests = [-(-len(part) // batch) for part in shares]
    assert max(requests) - min(requests) <= 1
    assert sum(requests) == -(-count // batch)


@given(st.integers(1, 60), st.integers(1, 17))
def test_requests_partition_a_share(count: int, batch: int) -> None:
    workload = ReviewWorkload(lines_of(count), "ids", None, batch=batch)
    requests = [workload.samples(position) for position in range(len(workload))]
    assert [line for request in requests for line in request] == lines_of(count)
    assert [len(request) for request in requests[:-1]] == [batch] * (len(workload) - 1)
    assert 1 <= len(requests[-1]) <= batch


def test_a_request_holds_its_lines_words_and_labels() -> None:
    request = ReviewWorkload(lines_of(5), "ids", None, batch=2).prepare(1)
    assert [part.tolist() for part in request.feed["words"].split()] == [[3, 8, 233], [4, 8, 233]]
    assert request.feed["label"].values.tolist() == [1, 0]
    assert request.samples == 2
