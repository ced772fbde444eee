"""What a zoo says of itself: the figures of its models, CompressAI's result files, and the model card."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lic.evaluation.bdrate import CurveError, ImageCurve, Interval, bd_rate_interval
from lic.evaluation.decibels import ms_ssim_to_db
from lic.models.architectures import architecture
from lic.zoo import BASELINE, TUNED
from search.base.formats import NONE_BETTER, fixed, interval, percent
from search.records.folder import OpenedSearch
from search.records.results import StrategyResult, bd_rate_text, strategy_results
from search.records.search_records import TrialRecord

#: The columns of a row's entropy estimate, and of its real coding.
_MEASURES = ("bpp", "psnr", "ms_ssim")


@dataclass(frozen=True)
class Choice:
    """The training exported at a rate, its checkpoint's weights, and what was passed over and why."""

    record: TrialRecord
    weights: dict[str, Any] = field(repr=False)
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figures:
    """Per quality and role ('tuned', 'baseline') the means over the images of `image_set`.

    `table` has the columns quality, role, bpp, psnr, ms_ssim (real coding, or None), the same prefixed with
    estimated_, and, where the models were verified, bits_off, estimate_off (percent), encoding_time and
    decoding_time (seconds). `images` is the verification's table, a row an image.
    """

    image_set: str
    table: pd.DataFrame
    images: pd.DataFrame | None

    @staticmethod
    def of(
        search: OpenedSearch,
        chosen: dict[int, TrialRecord],
        verified: pd.DataFrame | None,
        verified_on: str,
    ) -> Figures:
        """The figures of what was verified, else those that the search recorded at full length."""
        if verified is not None:
            from lic.codec.verification import means

            return Figures(verified_on, means(verified), verified)
        rows: list[dict[str, Any]] = []
        for quality, record in chosen.items():
            for role, training in ((TUNED, record), (BASELINE, search.records.baselines[quality])):
                figures = training.readings[search.records.epochs]
                named = {f"estimated_{m}": figures.get(f"{search.records.test_set}/{m}") for m in _MEASURES}
                rows.append({"quality": quality, "role": role} | named)
        return Figures(search.records.test_set, pd.DataFrame(rows), None)

    @property
    def verified(self) -> bool:
        return self.images is not None

    def of_model(self, quality: int, role: str) -> dict[str, Any]:
        """The figures of one model, for the manifest."""
        rows = self.table[(self.table["quality"] == quality) & (self.table["role"] == role)]
        row = rows.drop(columns=["quality", "role"]).iloc[0].to_dict()
        timeless = {str(k): _rounded(v) for k, v in row.items() if not str(k).endswith("_time")}
        return {"image_set": self.image_set, **timeless}

    def of_role(self, role: str) -> pd.DataFrame:
        return self.table[self.table["role"] == role].sort_values("quality")

    def real_bd_rate(self, measure: str) -> Interval | str | None:
        """BD-rate of the tuned models against the baselines on real bits, or why there is none."""
        if self.images is None:
            return None
        if measure == "ms_ssim" and (reason := self._without_ms_ssim(self.images)):
            return reason
        curves = []
        for role in (BASELINE, TUNED):
            part = self.images[self.images["role"] == role]
            rate, quality = (
                part.pivot_table(index="quality", columns="image", values=v, dropna=False)
                for v in ("bpp", measure)
            )
            curves.append((rate, quality))
        common = curves[0][0].index.intersection(curves[1][0].index)
        combine = (ms_ssim_to_db,) if measure == "ms_ssim" else ()
        anchor, test = (
            ImageCurve(rate.loc[common].to_numpy(), quality.loc[common].to_numpy(), *combine)
            for rate, quality in curves
        )
        try:
            return bd_rate_interval(anchor, test)
        except CurveError as error:
            return str(error)

    @staticmethod
    def _without_ms_ssim(images: pd.DataFrame) -> str:
        from lic.evaluation.msssim import unmeasurable

        distinct = images.drop_duplicates("image")
        return unmeasurable(zip(distinct["image"], distinct["height"], distinct["width"], strict=True))


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) and math.isfinite(value) else None


def provenance(search: OpenedSearch, verified: bool) -> dict[str, Any]:
    """The head of the manifest: which search, whether complete and verified, code and versions."""
    return {
        "name": architecture(search.settings.model),
        "search": search.folder.name,
        "complete": search.complete,
        "trials": len(search.records.trials),
        "verified": verified,
        "trained": search.environment,
        "exported": {name: version(name) for name in ("lictune", "torch", "compressai", "safetensors")},
    }


def results(search: OpenedSearch, figures: Figures) -> dict[str, dict[str, Any]]:
    """File name -> document in CompressAI's result schema, of the tuned codec and of the baseline, which
    its own plotting reads. bpp and quality are of real coding where the models were verified."""
    name, prefix = architecture(search.settings.model), "" if figures.verified else "estimated_"
    kind = "real bitstreams" if figures.verified else "entropy estimates"
    documents = {}
    for role, file in ((TUNED, "results.json"), (BASELINE, "results-baseline.json")):
        rows = figures.of_role(role)
        columns = {"bpp": "bpp", "psnr-rgb": "psnr", "ms-ssim-rgb": "ms_ssim"}
        found = {key: [_rounded(v) for v in rows[f"{prefix}{column}"]] for key, column in columns.items()}
        if figures.verified:
            times = ("encoding_time", "decoding_time")
            found |= {key: [round(value, 4) for value in rows[key]] for key in times}
        label = f"{name} ({role}, lictune)"
        description = f"{role} models of the search {search.folder.name}, {kind} on {figures.image_set}"
        documents[file] = {"name": label, "description": description, "results": found}
    return documents


def readme(
    search: OpenedSearch,
    figures: Figures,
    choices: dict[int, Choice],
    root: Path,
    data_licence: str | None,
) -> str:
    """The model card, Markdown, of the zoo below `root`."""
    settings, records = search.settings, search.records
    by_strategy = strategy_results(records, search.plan.strategies)
    refused = (f"{result.strategy}: {result.refused}" for result in by_strategy if result.refused)
    start, start_data = _start(settings.start)
    facts = {
        "name": architecture(settings.model),
        "first": min(choices),
        "rate_table": _rate_table(figures, choices),
        "strategy_table": _strategy_table(by_strategy, len(records.baselines)),
        "refusals": list(dict.fromkeys(refused)),
        "start": start,
        "start_data": start_data,
        "data": Path(settings.data).name if settings.data else "dead leaves (generated)",
        "has_compressai": (root / "compressai").is_dir(),
        **_verified_facts(figures, any(choice.record.alpha for choice in choices.values())),
    }
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, keep_trailing_newline=True, undefined=StrictUndefined)
    environment.filters |= {"text": _text, "code": _code}
    return environment.get_template("card.md.jinja").render(
        search=search, settings=settings, records=records, environment=search.environment,
        figures=figures, choices=choices, data_licence=data_licence, **facts,
    )  # fmt: skip


def _verified_facts(figures: Figures, tuned: bool) -> dict[str, Any]:
    """What the card says of the verification; `tuned` is whether any model is not its baseline."""
    if figures.images is None:
        return {}
    facts = {name: percent(max(figures.table[name], key=abs)) for name in ("bits_off", "estimate_off")}
    for measure in ("psnr", "ms_ssim"):
        found = figures.real_bd_rate(measure) if tuned else None
        told = f"no figure ({found})" if isinstance(found, str) else interval(found)
        facts[f"real_{measure}"] = told if tuned else NONE_BETTER
    return {**facts, "image_count": figures.images["image"].nunique()}


def _rate_table(figures: Figures, choices: dict[int, Choice]) -> str:
    head = ["quality", "lambda", "alpha", "strategy", "trial", "bpp", "PSNR", "MS-SSIM"]
    if figures.verified:
        head += ["real bpp", "real PSNR", "real MS-SSIM"]
    rows = []
    for quality, choice in choices.items():
        record, values = choice.record, figures.of_model(quality, TUNED)
        row = [
            str(quality), f"{record.lmbda:g}", f"{record.alpha:.2e}" if record.alpha else "0",
            record.strategy_name, _text(record.name),
        ]  # fmt: skip
        for prefix in ("estimated_", "") if figures.verified else ("estimated_",):
            row += [fixed(values.get(f"{prefix}{m}"), d) for m, d in zip(_MEASURES, (4, 2, 4), strict=True)]
        rows.append(row)
    return _markdown(head, rows)


def _strategy_table(found: list[StrategyResult], rates: int) -> str:
    rows = [
        [
            r.strategy,
            bd_rate_text(r, r.bd_rate_psnr),
            bd_rate_text(r, r.bd_rate_msssim),
            f"{r.tuned} of {rates}",
        ]
        for r in found
    ]
    return _markdown(["strategy", "BD-rate (PSNR)", "BD-rate (MS-SSIM)", "tuned rates"], rows)


def _start(start: str) -> tuple[str, str]:
    """What the training started from, in words, and what those weights say of their own images."""
    if start == "scratch":
        return "from scratch", ""
    provenance = Path(start).with_suffix(".json")
    data = json.loads(provenance.read_text()).get("data", "") if provenance.is_file() else ""
    return f"from the weights `{_code(Path(start).name)}`", data


def _text(outside: object) -> str:
    """A text from outside as Markdown that shows it: one line, no element, link or cell of it live."""
    return re.sub(r"([\\`\[\]<>|&])", r"\\\1", " ".join(str(outside).split()))


def _code(outside: object) -> str:
    """A text from outside for where Markdown shows code: one line that does not end it."""
    return " ".join(str(outside).split()).replace("`", "'")


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
