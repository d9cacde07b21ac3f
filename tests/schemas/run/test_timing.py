"""Where the time went: a moment counts once a process, and busy and waiting are all of it."""

from hypothesis import given
from hypothesis import strategies as st

from sightflow.schemas.failure import Stage
from sightflow.schemas.run.timing import Span, stage_times

TENTHS = st.integers(0, 100)
SPANS = st.lists(
    st.builds(
        lambda stage, process, start, long: Span(stage, process, start / 10, (start + long) / 10),
        st.sampled_from([Stage.FETCH, Stage.INFER]),
        st.sampled_from(["a:1", "b:2"]),
        TENTHS,
        st.integers(0, 30),
    )
)


@given(SPANS)
def test_busy_counts_each_moment_of_a_process_once_and_the_rest_is_waiting(spans: list[Span]) -> None:
    for stage, time in stage_times(spans, length=13.0).items():
        here = {span.process for span in spans if span.stage is stage}
        moments = {
            (span.process, tenth)
            for span in spans
            if span.stage is stage
            for tenth in range(round(span.start * 10), round(span.end * 10))
        }
        assert abs(time.busy - len(moments) / 10) < 0.01
        assert abs(time.busy + time.waiting - 13.0 * len(here)) < 0.01


def test_stages_stand_in_the_order_of_the_way_whatever_the_order_of_the_spans() -> None:
    spans = [Span(stage, "a:1", 0, 1) for stage in (Stage.PUBLISH, Stage.INFER, Stage.FETCH)]
    assert list(stage_times(spans, 2.0)) == [Stage.FETCH, Stage.INFER, Stage.PUBLISH]
    assert stage_times(spans, 2.0)[Stage.INFER].share == 0.5
