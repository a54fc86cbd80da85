"""The rows of the table, from the results of a group (see `processes.Results`) and the cases that it measured."""

from typing import Any

from jaxsep.benchmark.processes import Results
from jaxsep.benchmark.table import Row, Summary, quotient, summary

MS, GB = 1e3, 1e-9


def setting(of: dict[str, Any]) -> str:
    """Batch and length of a case, as the table shows them."""
    return f"B={of['batch']}, {of['seconds']:g} s"


def compiling(values: dict[str, list[float]]) -> str:
    """What came before the first repetition of a worker of ours."""
    return f"traced in {values['trace_seconds'][0]:.1f} s, compiled in {values['compile_seconds'][0]:.1f} s"


def peer_rows(suite: str, name: str, ours: dict[str, Any], results: Results) -> list[Row]:
    """Milliseconds of 'ours' and 'peer', ratio of the medians."""
    mine = summary(results["ours"]["seconds"], MS)
    theirs = summary(results["peer"]["seconds"], MS) if "peer" in results else None
    ratio = theirs.median / mine.median if theirs else None
    return [Row(suite, name, setting(ours), "ms", mine, theirs, ratio, compiling(results["ours"]))]


def paper_rows(
    ours: dict[str, Any], shapes: dict[str, int], flops: int, results: Results
) -> list[Row]:
    """The step beside the peer's, in bfloat16, and its float operations per second beside those of bare products."""
    where, seconds = setting(ours), results["ours"]["seconds"]
    step = [flops / value for value in seconds]
    products = [results["products"]["flops"][0] / value for value in results["products"]["seconds"]]
    narrow, wide = shapes["narrow"], shapes["wide"]
    bare = f"[{shapes['rows']},{narrow}]·[{narrow},{wide}] and its gradients"
    small = results["bfloat16"]["seconds"]
    return [
        *peer_rows("train", "step, paper's network", ours, results),
        Row(
            "train",
            "step, paper's network, bfloat16",
            where,
            "ms",
            summary(small, MS),
            ratio=quotient(seconds, small).median,
            note="ratio: float32 / bfloat16",
        ),
        Row(
            "train",
            "arithmetic of the step",
            where,
            "GFLOP/s",
            summary(step, 1e-9),
            note=f"{flops * 1e-9:.4g} GFLOP",
        ),
        Row("train", "arithmetic of float32 products", bare, "GFLOP/s", summary(products, 1e-9)),
        Row("train", "step's share of the products'", where, "%", quotient(step, products, 100)),
    ]


def scale_rows(batches: dict[str, dict[str, Any]], results: Results) -> list[Row]:
    """Time per example and second for each batch, and the weightings' share of the step of the largest."""
    rows, first = [], None
    for name, of in batches.items():
        per_second = summary(results[name]["seconds"], MS / (of["batch"] * of["seconds"]))
        first = first or per_second
        ratio, note = per_second.median / first.median, f"ratio: to {setting(batches['ours'])}"
        unit = "ms/(example·s)"
        rows.append(
            Row(
                "train",
                "step per example and second",
                setting(of),
                unit,
                per_second,
                None,
                ratio,
                note,
            )
        )
    step, large = results["larger"]["seconds"], batches["larger"]
    shapes = {
        "example": f"[{large['batch']}]",
        "source": f"[{large['batch']},{large['network']['num_sources']}]",
    }
    for name, values in results["weightings"].items():
        if name.endswith(tuple(shapes)):
            weighting, granularity = name.split()
            note = f"{summary(values, 1e6).median:.3g} µs of a step with {setting(large)}"
            share = quotient(values, step, 100)
            where = f"losses {shapes[granularity]}"
            rows.append(
                Row(
                    "train",
                    f"weighting {weighting}, share of the step",
                    where,
                    "%",
                    share,
                    note=note,
                )
            )
    return rows


def mixture_rows(drawn: dict[str, Any], results: Results) -> list[Row]:
    """Mixtures a second."""
    rates = [drawn["mixtures"] / value for value in results["ours"]["seconds"]]
    where = f"2 × {drawn['seconds']:g} s, {drawn['sample_rate']} Hz"
    note = "one thread, packed corpora of generated sound"
    return [Row("data", "mixtures drawn and rendered", where, "1/s", summary(rates), note=note)]


def loop_rows(fed: dict[str, Any], results: Results) -> list[Row]:
    """The share of time in which the training loop has no batch."""
    ours = results["ours"]
    share = quotient(ours["waited"], ours["seconds"], 100)
    step = summary(ours["seconds"], MS / fed["steps"]).median
    note = f"{len(ours['seconds'])} × {fed['steps']} steps of {step:.4g} ms"
    return [
        Row("data", "training at :cpu scale waits for data", setting(fed), "%", share, note=note)
    ]


def compile_rows(where: str, results: Results) -> list[Row]:
    """Seconds to trace and to compile a training step, in a new process."""
    rows = []
    for name, title in (("cold", "cold"), ("cached", "from the persistent cache")):
        for part in ("trace", "compile"):
            values, cold = results[name][f"{part}_seconds"], results["cold"][f"{part}_seconds"]
            ratio = quotient(cold, values).median if name == "cached" else None
            note = "ratio: cold / cached" if name == "cached" else ""
            rows.append(
                Row("compile", f"{part}, {title}", where, "s", summary(values), None, ratio, note)
            )
    return rows


def memory_rows(plain: dict[str, Any], results: Results) -> list[Row]:
    """Largest memory and time per example, with and without remat."""
    where, rows = setting(plain), []
    titles = {"remat": "step, paper's network, remat", "plain": "step, paper's network"}
    for name, title in titles.items():
        values = results[name]
        on_device = "device_bytes" in values
        largest = summary([max(values["device_bytes" if on_device else "peak_bytes"])], GB)
        note = "of the device, largest" if on_device else "resident, largest, compiler included"
        rows.append(Row("memory", title, where, "GB", largest, note=note))
    times: dict[str, Summary] = {
        name: summary(results[name]["seconds"], MS / plain["batch"]) for name in titles
    }
    for name, title in titles.items():
        ratio = times[name].median / times["plain"].median
        note = "ratio: to no remat"
        rows.append(Row("memory", title, where, "ms/example", times[name], None, ratio, note))
    return rows
