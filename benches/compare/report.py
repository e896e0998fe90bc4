"""Makes a table and a drawing from results: medians of the rounds, with the spread where there is more than one."""

import json
from collections import defaultdict
from statistics import median

from recipes import TITLES

MB, MIB = 1e6, 1024 * 1024
BUSY = 0.1  # other load above this share of the machine is marked with ~
TIMES = ("first", "repeat", "changed", "restore", "one", "check", "forget")
COLORS = {"copal": "#c2571a", "restic": "#4878a8", "rustic": "#7aa6c9", "kopia": "#6a9a58", "borg": "#8d7ab5",
          "vykar": "#b3a04a", "bupstash": "#888888"}


def write(results):
    """Prints the tables and writes the drawing beside `results`."""
    runs = [json.loads(line) for line in results.read_text().splitlines()]
    for workload, scale in sorted({(run["workload"], run["scale"]) for run in runs}):
        here = [run for run in runs if (run["workload"], run["scale"]) == (workload, scale)]
        print(table(workload, scale, here))
    drawing = results.with_suffix(".svg")
    drawing.write_text(bars(runs))


def table(workload, scale, runs):
    """One workload. Each time is `wall s / CPU s`."""
    cells = grouped(runs)
    tools = list(dict.fromkeys(run["tool"] for run in runs))
    heads = ["tool", "n", *(f"{step} s / CPU s" for step in TIMES), "RSS first", "anon first", "RSS restore",
             "repo MB", "v2 MB", "end MB", "forgotten MB", "rewritten MB"]
    first = next(run for run in runs if run["step"] == "first")
    lines = [f"\n### {workload}: {TITLES[workload]}" + (f" (scale {scale:g})" if scale != 1 else ""),
             f"\n{first['files']:,} files, {first['bytes'] / 1e9:.3f} GB\n",
             "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for tool, values in [(tool, row(cells, tool)) for tool in tools] + against_best(cells, tools):
        lines.append("| " + " | ".join([tool, *values]) + " |")
    lines += [f"\n{tool} failed: {run['error'].splitlines()[-1]}" for tool in tools for run in cells[tool, "failed"]]
    lines += [f"\n{run['tool']}: what {run['step']} gave back differs" for run in runs if run.get("equal") is False]
    return "\n".join(lines)


def grouped(runs):
    cells = defaultdict(list)
    for run in runs:
        cells[run["tool"], run["step"]].append(run)
    return cells


def row(cells, tool):
    sizes = (size_cell(cells[tool, step], field, unit) for step, field, unit in columns_of_sizes(cells))
    return [str(len(cells[tool, "first"])), *(time_cell(cells[tool, step]) for step in TIMES), *sizes]


def columns_of_sizes(cells):
    """(step, field, unit) of each column behind the times."""
    last = max((step for _, step in cells if step.startswith("v")), default="changed")
    return (("first", "rss_sum", MIB), ("first", "anon_sum", MIB), ("restore", "rss_sum", MIB),
            ("first", "repo_bytes", MB), ("changed", "repo_bytes", MB), (last, "repo_bytes", MB), ("forget", "repo_bytes", MB), ("forget", "written", MB))


def against_best(cells, tools):
    """Rows with Copal's figure over the lowest of the others, and whose that is: of medians, and of the least of all rounds,
    which tells more where other load made most rounds slow. None without Copal or others."""
    peers = [tool for tool in tools if tool != "copal"]
    if not peers or "copal" not in tools:
        return []

    def ratio(step, field, of):
        others = {tool: of([run[field] for run in cells[tool, step]]) for tool in tools
                  if cells[tool, step] and field in cells[tool, step][0]}
        own = others.pop("copal", None)
        if own is None or not others:
            return "-"
        best = min(others, key=others.get)
        return f"{own / max(others[best], 0.005):.2f} {best}"

    def line(of):
        times = (f"{ratio(step, 'wall', of)} / {ratio(step, 'cpu', of)}" for step in TIMES)
        return ["", *times, *(ratio(step, field, of) for step, field, _ in columns_of_sizes(cells))]

    return [("**copal / best**", line(median)), ("least / least", line(min))]


def time_cell(runs):
    """`wall / CPU` in seconds, each with its spread (largest over smallest) where that is over a tenth."""
    if not runs:
        return "-"
    mark = "~" if any(run["other_load"] > BUSY for run in runs) else ""
    return f"{spread(runs, 'wall')}{mark} / {spread(runs, 'cpu')}"


def spread(runs, field):
    values = [run[field] for run in runs]
    ratio = max(values) / max(min(values), 0.005)
    return number(median(values)) + (f" (x{ratio:.1f})" if ratio > 1.1 and max(values) > 0.1 else "")


def size_cell(runs, field, unit):
    values = [run[field] / unit for run in runs if field in run]
    return number(median(values)) if values else "-"


def number(value):
    """Three digits that matter, more where they stand before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# The drawing ------------------------------------------------------------------------------------------------------------

WIDTH, BAR, GAP, LEFT = 220, 12, 34, 70


def bars(runs):
    """A panel for each workload and step: median CPU seconds of each tool as a bar. CPU rather than wall because it
    suffers least from what else the machine does."""
    workloads = sorted({(run["workload"], run["scale"]) for run in runs})
    steps = [step for step in TIMES if any(run["step"] == step for run in runs)]
    tools = list(dict.fromkeys(run["tool"] for run in runs))
    height = len(tools) * BAR + GAP
    parts = []
    for row_number, key in enumerate(workloads):
        cells = grouped([run for run in runs if (run["workload"], run["scale"]) == key])
        for column, step in enumerate(steps):
            values = {tool: median(run["cpu"] for run in cells[tool, step]) for tool in tools if cells[tool, step]}
            title = f"{key[0]} {step}, CPU s"
            parts.append(f'<g transform="translate({column * WIDTH} {row_number * height})">{panel(title, values)}</g>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{len(steps) * WIDTH}" height="{len(workloads) * height}" '
            f'font-family="sans-serif" font-size="9">\n' + "\n".join(parts) + "\n</svg>\n")


def panel(title, values):
    largest = max(values.values(), default=1) or 1
    parts = [f'<text x="{LEFT}" y="14" font-size="11">{title}</text>']
    for k, (tool, value) in enumerate(values.items()):
        y, length = 20 + k * BAR, (WIDTH - LEFT - 50) * value / largest
        parts.append(f'<text x="{LEFT - 4}" y="{y + 9}" text-anchor="end">{tool}</text>'
                     f'<rect x="{LEFT}" y="{y + 1}" width="{length:.1f}" height="{BAR - 2}" fill="{COLORS[tool]}"/>'
                     f'<text x="{LEFT + length + 3:.1f}" y="{y + 9}">{number(value)}</text>')
    return "".join(parts)
