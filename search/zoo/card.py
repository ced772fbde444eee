"""The documents of a zoo: the metrics of its models, CompressAI's result files and the model card."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lic.evaluation.bdrate import CurveError, ImageCurve, Interval, bd_rate_interval
from lic.evaluation.decibels import ms_ssim_to_db
from lic.models.architectures import OwnModel, architecture
from lic.recipe import REGULARIZERS, Distortion
from lic.zoo import BASELINE, TUNED
from search.base.dimensions import shown_value
from search.base.formats import NONE_BETTER, fixed, interval, percent
from search.records.folder import OpenedSearch
from search.records.results import StrategyResult, bd_rate_text, strategy_results, tuned_columns
from search.records.search_records import TrialRecord

#: Metric columns, of the entropy estimate and of actual coding.
_MEASURES = ("bpp", "psnr", "ms_ssim")


@dataclass(frozen=True)
class Choice:
    """The training run exported at one quality, the weights of its checkpoint, and better runs that were
    skipped, with the reason."""

    record: TrialRecord
    weights: dict[str, Any] = field(repr=False)
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class About:
    """What the card cannot take from the search: the licence of the training images, the repository on the
    Hugging Face Hub, and whether the models code real bitstreams."""

    data_licence: str | None = None
    repository: str | None = None
    codes: bool = True


@dataclass(frozen=True)
class ZooMetrics:
    """Means over the images of `image_set`, per quality and role ('tuned', 'baseline').

    `table` has the columns quality, role, bpp, psnr, ms_ssim (of actual coding, or None), the same with the
    prefix estimated_ and, if the models were verified, bits_off and estimate_off (percent), encoding_time and
    decoding_time (seconds). `images` is the table of the verification, one row per model and image.
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
    ) -> ZooMetrics:
        """The metrics of the verification, else those that the search recorded after full training."""
        if verified is not None:
            from lic.codec.verification import means

            return ZooMetrics(verified_on, means(verified), verified)
        rows: list[dict[str, Any]] = []
        for quality, record in chosen.items():
            for role, training in ((TUNED, record), (BASELINE, search.records.baselines[quality])):
                metrics = training.readings[search.records.epochs]
                named = {f"estimated_{m}": metrics.get(f"{search.records.test_set}/{m}") for m in _MEASURES}
                rows.append({"quality": quality, "role": role} | named)
        return ZooMetrics(search.records.test_set, pd.DataFrame(rows), None)

    @property
    def verified(self) -> bool:
        return self.images is not None

    def of_model(self, quality: int, role: str) -> dict[str, Any]:
        """The metrics of one model, for the manifest."""
        rows = self.table[(self.table["quality"] == quality) & (self.table["role"] == role)]
        row = rows.drop(columns=["quality", "role"]).iloc[0].to_dict()
        timeless = {str(k): _rounded(v) for k, v in row.items() if not str(k).endswith("_time")}
        return {"image_set": self.image_set, **timeless}

    def of_role(self, role: str) -> pd.DataFrame:
        return self.table[self.table["role"] == role].sort_values("quality")

    def real_bd_rate(self, measure: str) -> Interval | str | None:
        """BD-rate of the tuned models against the baselines from actual bitstreams, or why there is none."""
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
    """The head of the manifest: the search, what it tuned and fixed, whether it is complete and verified,
    code and versions."""
    settings = search.settings
    return {
        "name": architecture(settings.model),
        "search": search.folder.name,
        **{key: dict(found) for key in ("tune", "fix") if (found := getattr(settings, key))},
        "complete": search.complete,
        "trials": len(search.records.trials),
        "verified": verified,
        "trained": search.environment,
        "exported": {name: version(name) for name in ("lictune", "torch", "compressai", "safetensors")},
    }


def tuned_entry(search: OpenedSearch, record: TrialRecord) -> dict[str, Any]:
    """The values of all tuned settings of a training run, also of a baseline, for the manifest; nothing if
    the search tuned none."""
    values = tuned_columns(search.records, record)
    return {"tuned": values} if values else {}


def results(search: OpenedSearch, metrics: ZooMetrics) -> dict[str, dict[str, Any]]:
    """File name -> document in CompressAI's result schema, for the tuned codec and the baseline; CompressAI's
    plotting reads them. Rate and distortion are those of actual coding if the models were verified."""
    name, prefix = architecture(search.settings.model), "" if metrics.verified else "estimated_"
    kind = "real bitstreams" if metrics.verified else "entropy estimates"
    documents = {}
    for role, file in ((TUNED, "results.json"), (BASELINE, "results-baseline.json")):
        rows = metrics.of_role(role)
        columns = {"bpp": "bpp", "psnr-rgb": "psnr", "ms-ssim-rgb": "ms_ssim"}
        found = {key: [_rounded(v) for v in rows[f"{prefix}{column}"]] for key, column in columns.items()}
        if metrics.verified:
            times = ("encoding_time", "decoding_time")
            found |= {key: [round(value, 4) for value in rows[key]] for key in times}
        label = f"{name} ({role}, lictune)"
        description = f"{role} models of the search {search.folder.name}, {kind} on {metrics.image_set}"
        documents[file] = {"name": label, "description": description, "results": found}
    return documents


def readme(
    search: OpenedSearch,
    metrics: ZooMetrics,
    choices: dict[int, Choice],
    root: Path,
    about: About,
) -> str:
    """The model card of the zoo in `root`, as Markdown."""
    settings, records = search.settings, search.records
    by_strategy = strategy_results(records, search.plan.strategies)
    refused = (f"{result.strategy}: {result.refused}" for result in by_strategy if result.refused)
    start, start_data = _start(settings.start)
    data = Path(settings.data).name if settings.data else "dead leaves (generated)"
    facts = {
        "front_matter": _front_matter(search, metrics, by_strategy, data),
        "name": architecture(settings.model),
        "own": str(settings.network) if isinstance(settings.network, OwnModel) else "",
        "codes": about.codes,
        "first": min(choices),
        "rate_table": _rate_table(search, metrics, choices),
        "strategy_table": _strategy_table(by_strategy, len(records.baselines)),
        "refusals": list(dict.fromkeys(refused)),
        "loss": REGULARIZERS.get(settings.regularizer, "a function of its own"),
        "distortion": (distortion := Distortion.of(settings.distortion)).formula(),
        "regularization": f"{distortion.unit:.3g} alpha L" if distortion.unit != 1 else "alpha L",
        "start": start,
        "start_data": start_data,
        "data": data,
        "tuned": [str(dimension) for dimension in search.plan.dimensions],
        "has_compressai": (root / "compressai").is_dir(),
        **_verified_facts(metrics, any(not choice.record.point.is_baseline for choice in choices.values())),
    }
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, keep_trailing_newline=True, undefined=StrictUndefined)
    environment.filters |= {"text": _text, "code": _code}
    return environment.get_template("card.md.jinja").render(
        search=search, settings=settings, records=records, environment=search.environment,
        metrics=metrics, choices=choices, about=about, **facts,
    )  # fmt: skip


def _front_matter(
    search: OpenedSearch, metrics: ZooMetrics, by_strategy: list[StrategyResult], data: str
) -> str:
    """The card's metadata as YAML, as the Hugging Face Hub reads it
    (https://huggingface.co/docs/hub/model-cards), with the BD-rates of the tuned models against the
    baselines: from actual bitstreams if the models were verified."""
    name, whole = architecture(search.settings.model), by_strategy[-1]  # the best of all
    kind = "real bitstreams" if metrics.verified else "entropy estimates"
    values = []
    for metric, measure, estimate in (
        ("PSNR", "psnr", whole.bd_rate_psnr), ("MS-SSIM", "ms_ssim", whole.bd_rate_msssim)
    ) if whole.tuned else ():  # fmt: skip
        found = metrics.real_bd_rate(measure) if metrics.verified else estimate
        if isinstance(found, Interval):
            identifier = f"bd-rate-{metric.lower().replace('-', '')}"
            called = f"BD-rate ({metric}) in percent, {kind}"
            values.append({"type": identifier, "name": called, "value": round(found.value, 3)})
    image_set = _identifier(metrics.image_set)
    kind_of_model = ["compressai"] if isinstance(search.settings.network, str) else []
    document: dict[str, Any] = {
        "library_name": "lictune",
        "license": "other",
        "license_name": "see-data-and-licence",
        "pipeline_tag": "image-to-image",
        "tags": ["image-compression", "learned-image-compression", *kind_of_model, "decorrelation", name],
        "datasets": [_identifier(data.removesuffix(" (generated)"))],
        "metrics": [value["type"] for value in values],
    }
    if values:
        result = {
            "task": {"type": "image-compression", "name": "Image compression"},
            "dataset": {"type": image_set, "name": image_set},
            "metrics": values,
        }
        document["model-index"] = [{"name": name, "results": [result]}]
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)


def _identifier(name: str) -> str:
    """A name as an identifier of the Hugging Face Hub."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "unnamed"


def _verified_facts(metrics: ZooMetrics, tuned: bool) -> dict[str, Any]:
    """The card's facts about the verification; `tuned`: whether any model is not the baseline."""
    if metrics.images is None:
        return {}
    facts = {name: percent(max(metrics.table[name], key=abs)) for name in ("bits_off", "estimate_off")}
    for measure in ("psnr", "ms_ssim"):
        found = metrics.real_bd_rate(measure) if tuned else None
        text = f"no value ({found})" if isinstance(found, str) else interval(found)
        facts[f"real_{measure}"] = text if tuned else NONE_BETTER
    return {**facts, "image_count": metrics.images["image"].nunique()}


def _rate_table(search: OpenedSearch, metrics: ZooMetrics, choices: dict[int, Choice]) -> str:
    tuned = [dimension.name for dimension in search.plan.dimensions]
    head = ["quality", "lambda", "alpha", "strategy", *tuned, "trial", "bpp", "PSNR", "MS-SSIM"]
    if metrics.verified:
        head += ["coded bpp", "coded PSNR", "coded MS-SSIM"]
    rows = []
    for quality, choice in choices.items():
        record, values = choice.record, metrics.of_model(quality, TUNED)
        row = [
            str(quality), f"{record.lmbda:g}", f"{record.alpha:.2e}" if record.alpha else "0",
            record.strategy_name, *map(shown_value, tuned_columns(search.records, record).values()),
            _text(record.name),
        ]  # fmt: skip
        for prefix in ("estimated_", "") if metrics.verified else ("estimated_",):
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
    return _markdown(["strategy", "BD-rate (PSNR)", "BD-rate (MS-SSIM)", "tuned qualities"], rows)


def _start(start: str) -> tuple[str, str]:
    """A description of the initial weights, and of the images that they were trained on."""
    if start == "scratch":
        return "from scratch", ""
    provenance = Path(start).with_suffix(".json")
    data = json.loads(provenance.read_text()).get("data", "") if provenance.is_file() else ""
    return f"from the weights `{_code(Path(start).name)}`", data


def _text(outside: object) -> str:
    """Escape user-given text for Markdown: one line, without active markup, links or table cells."""
    return re.sub(r"([\\`\[\]<>|&])", r"\\\1", " ".join(str(outside).split()))


def _code(outside: object) -> str:
    """Escape user-given text for a Markdown code span: one line without backticks."""
    return " ".join(str(outside).split()).replace("`", "'")


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
