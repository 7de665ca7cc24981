"""How our dashboards look and ask: one data source, one filter by namespace and ImageIndex, latencies by quantile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

TAG: Final = "sightline"
TARGET_S: Final = 0.05
"""The time that a search may take; latency panels have a line there."""

F: Final = 'namespace=~"$namespace", imageindex=~"$imageindex"'
"""The filter of what has both labels; the API has no imageindex, which "All" (`.*`) matches too."""

N: Final = 'namespace=~"$namespace"'
"""The filter of what belongs to no ImageIndex: the operator, Qdrant."""

Panel = Builder[models.Panel]
Query = tuple[str, str]
"""An expression in PromQL, and the legend of its series."""

Steps = Sequence[tuple[float | None, str]]
"""Thresholds: from which value on which colour; the first one, None, has no lower end."""

_WIDTH: Final = 24
_HEIGHT: Final = 8
_SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_KNOWN: Final = '__name__=~"sightline_searches_limit|sightline_imageindex_replicas|sightline_operator_leading"'


def board(name: str, description: str, rows: Mapping[str, Sequence[Panel]]) -> models.Dashboard:
    """A dashboard of rows, with the variables that all of ours have and links to the others."""
    made = (
        dashboard.Dashboard(f"Sightline / {name}")
        .uid(f"sightline-{name}")
        .description(description)
        .tags([TAG])
        .readonly()
        .time("now-3h", "now")
        .refresh("1m")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Sightline")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_choice("namespace", "Namespace", f"{{{_KNOWN}}}"))
        .with_variable(_choice("imageindex", "ImageIndex", f"{{{_KNOWN}, {N}}}"))
    )
    for title, panels in rows.items():
        made = made.with_row(dashboard.Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    built = made.build()
    for number, placed in enumerate(built.panels or (), start=1):
        placed.id_val = number
    return built


def lines(
    title: str,
    *queries: Query,
    unit: str = "short",
    description: str = "",
    span: int = _WIDTH // 3,
    marks: Steps = (),
    stacked: bool = False,
) -> Panel:
    """Series over time. `marks` are drawn as lines, in the colours that they have."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .unit(unit)
        .min(0)
        .span(span)
        .height(_HEIGHT)
        .fill_opacity(20 if stacked else 0)
        .show_points(looks.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(show_legend=True)
            .display_mode(looks.LegendDisplayMode.LIST)
            .placement(looks.LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))
    if marks:
        style = common.GraphThresholdsStyleConfig().mode(looks.GraphTresholdsStyleMode.DASHED)
        panel = panel.thresholds(_thresholds([(None, "transparent"), *marks])).thresholds_style(style)
    for target in _targets(queries):
        panel = panel.with_target(target)
    return panel


def quantiles(title: str, histogram: str, *, by: str = "", description: str = "", **equal: str) -> Panel:
    """p50, p95 and p99 of a histogram of seconds, or p95 alone for each value of the label `by`."""
    if by:
        queries = [(quantile(0.95, histogram, by, **equal), f"{{{{{by}}}}}")]
    else:
        queries = [(quantile(q, histogram, **equal), f"p{q * 100:.0f}") for q in (0.5, 0.95, 0.99)]
    return lines(title, *queries, unit="s", description=description, marks=[(TARGET_S, "red")])


def of(metric: str, scope: str = F, **equal: str) -> str:
    """The series of a metric that are chosen; `equal` are labels and their values."""
    matchers = [*(f'{label}="{value}"' for label, value in equal.items()), scope]
    return f"{metric}{{{', '.join(matchers)}}}"


def rate(counter: str, by: str = "", scope: str = F, **equal: str) -> str:
    """How fast a counter grows, a second, for each value of the labels `by`."""
    summed = f"sum by ({by})" if by else "sum"
    return f"{summed} (rate({of(counter, scope, **equal)}[$__rate_interval]))"


def quantile(q: float, histogram: str, by: str = "", scope: str = F, **equal: str) -> str:
    """A quantile of a histogram, for each value of the label `by`."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', labels, scope, **equal)})"


def heat(title: str, histogram: str, *, description: str = "", span: int = _WIDTH // 3) -> Panel:
    """How many took how long, over time."""
    query = f"sum by (le) (increase({of(f'{histogram}_bucket')}[$__rate_interval]))"
    [target] = _targets([(query, "{{le}}")])
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .span(span)
        .height(_HEIGHT)
        .calculate(calculate=False)
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(32))
        .with_target(target.format(PromQueryFormat.HEATMAP))
    )


def figure(
    title: str, *queries: Query, unit: str = "short", steps: Steps = (), description: str = "", span: int = _WIDTH // 6
) -> Panel:
    """One number, as it is at the end of the time shown; its colour is that of the step it is in."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .unit(unit)
        .span(span)
        .height(_HEIGHT // 2)
        .no_value("-")
        .graph_mode(looks.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False))
        .thresholds(_thresholds(steps or [(None, "text")]))
    )
    for target in _targets(queries):
        panel = panel.with_target(target.instant())
    return panel


def states(
    title: str,
    query: Query,
    words: Mapping[int, tuple[str, str]],
    *,
    description: str = "",
    span: int = _WIDTH // 3,
) -> Panel:
    """A bar for each series, whose colour follows its value; `words` has what each value means, and its colour."""
    options = {str(value): models.ValueMappingResult(text=text, color=color) for value, (text, color) in words.items()}
    [target] = _targets([query])
    return (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .span(span)
        .height(_HEIGHT)
        .show_value(looks.VisibilityMode.NEVER)
        .mappings([models.ValueMap(options=options)])
        .with_target(target)
    )


def _choice(name: str, label: str, among: str) -> dashboard.QueryVariable:
    """A variable with the values of a label; all of them at first."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query(f"label_values({among}, {name})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _targets(queries: Iterable[Query]) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number))
        for number, (expression, legend) in enumerate(queries)
    ]


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    found = [models.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)
