"""Where the time went: a moment counts once a process, and busy and waiting are all of it."""

from hypothesis import given
from hypothesis import strategies as st

from sightflow.schemas.failure import Stage
from sightflow.schemas.run.timing import OTHER, Span, StartStep, stage_times, start_times, wall_seconds

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


def test_the_start_ends_with_the_first_answers_and_counts_a_moment_of_a_step_once() -> None:
    spans = [
        Span(StartStep.IMPORTS, "a:1", 0, 1),
        Span(StartStep.SERVER, "a:1", 1, 4),
        Span(StartStep.IMPORTS, "a:1", 1, 3),
        Span(StartStep.LISTING, "a:1", 4, 5),
        Span(Stage.FETCH, "a:1", 5, 6),
        Span(StartStep.MODEL, "b:2", 6, 8),
        Span(Stage.INFER, "b:2", 8, 9),
        Span(Stage.FETCH, "a:1", 8.5, 12),
        Span(StartStep.MODEL, "a:1", 9.5, 11),
        Span(Stage.INFER, "a:1", 11, 12),
    ]
    times = start_times(spans)
    assert times.steps == {
        StartStep.IMPORTS: 3,
        StartStep.SERVER: 3,
        StartStep.LISTING: 1,
        StartStep.MODEL: 2,
        StartStep.FIRST_BATCH: 2,
    }
    assert times.until_first_answers == 9
    assert not stage_times([span for span in spans if isinstance(span.stage, StartStep)], 12)


def test_a_run_without_answers_has_a_start_all_the_same() -> None:
    times = start_times([Span(StartStep.LISTING, "a:1", 0, 1), Span(StartStep.PLANNING, "a:1", 1, 3)])
    assert (times.steps, times.until_first_answers) == ({StartStep.LISTING: 1, StartStep.PLANNING: 2}, None)
    assert start_times([]).steps == {}


@given(SPANS)
def test_seconds_of_the_wall_are_counted_once_and_add_up(spans: list[Span]) -> None:
    seconds = wall_seconds(spans, began=1.0, ended=12.0)
    inferring = {t for s in spans if s.stage is Stage.INFER for t in range(round(s.start * 10), round(s.end * 10))}
    assert abs(seconds.get(Stage.INFER, 0.0) - len(inferring & set(range(10, 120))) / 10) < 0.01
    assert abs(sum(seconds.values()) - 11.0) < 0.01 and min(seconds.values(), default=0.0) >= 0
    assert set(seconds) <= {Stage.FETCH, Stage.INFER, OTHER}
    assert wall_seconds(spans[::-1], 1.0, 12.0) == seconds


def test_what_overlaps_with_the_models_work_costs_nothing() -> None:
    spans = [Span(Stage.FETCH, "a:1", 1, 5), Span(Stage.INFER, "b:2", 2, 4), Span(StartStep.SERVER, "a:1", 0, 1)]
    assert wall_seconds(spans, 0, 6) == {"infer": 2, "server": 1, "fetch": 2, "other": 1}
