"""What one column shows: one attack under one threat model; and the short form of its head."""

import re
from collections.abc import Mapping, Sequence

from fairat_lightning.report.measured import Threat, four_digits, threat_of
from fairat_lightning.report.runs import LAST, Run, under

WIDEST = 16  # letters of a head that are never cut
SHORT = {"APGD-CE + APGD-T": "APGD-CE+T"}  # the first half of AutoAttack, as its papers' tables abbreviate it
CUT = "*"  # behind a head that does not say everything


def apart(runs: Sequence[Run]) -> dict[str, str]:
    """Give an attack that the runs met under several threat models a key for each of these; by such a key, what to call it.

    The plain key stays with the first threat model, and with records that name none.
    """
    found: dict[str, list[Threat]] = {}
    for run in runs:
        for key, threat in run.threats.items():
            if threat is not None and threat not in found.setdefault(_attack(key), []):
                found[_attack(key)].append(threat)
    several = {attack: threats for attack, threats in found.items() if len(threats) > 1}
    words: dict[str, str] = {}
    for attack, threats in several.items():
        for threat in threats:
            words[_key(attack, threat, threats[0])] = _words(threat, threats)
    for run in runs:
        new = {k: _key(_attack(k), t, several[_attack(k)][0]) for k, t in run.threats.items() if t and _attack(k) in several}
        _rename(run, {old: key for old, key in new.items() if old != key})
    return words


def fill(runs: Sequence[Run]) -> None:
    """Put a sweep's figures into the columns that they belong to: eps 0 is "clean", any other the same attack at the same eps.

    A column that a run has figures for keeps them. `apart` comes first: by then one key is one threat model.
    """
    swept = {key for run in runs for curve in run.curves.values() for key in curve.values()}
    met = {
        _what(key, threat): (key, threat) for run in runs for key, threat in run.threats.items() if threat and key not in swept
    }
    for run in runs:
        for curve in run.curves.values():
            for eps, key in curve.items():
                last = LAST if key.endswith(LAST) else ""
                here, threat = ("clean" + last, None) if eps == 0 else met.get(_what(key, run.threats.get(key)), (key, None))
                if here not in run.summaries and key in run.summaries:
                    run.summaries[here], run.threats[here] = run.summaries[key], threat
                    run.verdicts |= {here: run.verdicts[key]} if key in run.verdicts else {}


def own_eps(run: Run) -> str | None:
    """The key of a sweep that met its evaluation's own eps, else the one of the smallest eps above 0; None without a sweep."""
    nodes = [*(facts.get("threat") for facts in run.audits.values()), (run.config or {}).get("attack")]
    own = {(threat[0], four_digits(threat[1])) for node in nodes if (threat := threat_of(node)) is not None}
    keys = [key for curve in run.curves.values() for eps, key in sorted(curve.items()) if eps > 0]
    return next((key for key in keys if run.threats.get(key) in own), keys[0] if keys else None)


def in_order(keys: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """The keys with one attack under several eps side by side, the smallest first; attacks and norms stay as they are given."""
    threats = {key: threat for run in runs for key, threat in run.threats.items() if threat}
    attacks = [key.partition("@")[0] for key in keys]
    norms = [threats[key][0] for key in keys if key in threats]

    def place(key: str) -> tuple[int, int, float]:
        norm, eps = threats.get(key, ("", 0.0))
        return attacks.index(key.partition("@")[0]), norms.index(norm) if norm else 0, eps

    return sorted(keys, key=place)


def elsewhere(keys: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Of attacks that were met at an eps that any run was trained with, the keys under another norm or eps."""
    threats = {key: (t[0], four_digits(t[1])) for run in runs for key, t in run.threats.items() if t}
    trained = {(t[0], four_digits(t[1])) for run in runs if (t := threat_of((run.config or {}).get("attack"))) is not None}
    usual = {key.partition("@")[0] for key in keys if threats.get(key) in trained}
    return [key for key in keys if key in threats and threats[key] not in trained and key.partition("@")[0] in usual]


def eps_text(eps: float) -> str:
    """ "8/255", or "0.5" where four digits say it all."""
    grey = 255 * eps
    return f"{grey:.0f}/255" if abs(float(f"{eps:.4g}") - eps) > 1e-9 and abs(grey - round(grey)) < 1e-4 else f"{eps:.4g}"


def short(titles: Mapping[str, str], keys: Sequence[str]) -> dict[str, str]:
    """A head for each title: the title, or what is left without the parameters of a long one, with CUT behind it."""
    heads = dict(titles)
    for key, title in titles.items():
        if len(title) > WIDEST:
            cut = re.sub(r" \([^()]*\)|, \d+ steps?\b", "", title)
            for long, few in SHORT.items():
                cut = cut.replace(long, few)
            heads[key] = title if cut == title else cut + CUT
    shown = [heads[key] for key in keys]
    return {key: titles[key] if shown.count(head) > 1 else head for key, head in heads.items()}


def explained(titles: Mapping[str, str], heads: Mapping[str, str], keys: Sequence[str]) -> list[str]:
    """What each head leaves out, a footnote each."""
    return [f"{CUT} {heads[key].removesuffix(CUT)}: {titles[key]}." for key in keys if heads[key] != titles[key]]


def _attack(key: str) -> str:
    return re.sub(r"@l(inf|2)_[^@]*", "", key)


def _what(key: str, threat: Threat | None) -> tuple[str, bool, str, float] | None:
    """Attack, whether on the last epoch's weights, norm and eps, as two records of one thing agree on them."""
    return threat and (key.partition("@")[0], key.endswith(LAST), threat[0], four_digits(threat[1]))


def _key(attack: str, threat: Threat, first: Threat) -> str:
    name = attack.removesuffix(LAST)
    return attack if threat == first else under(name, threat) + attack[len(name) :]


def _words(threat: Threat, among: Sequence[Threat]) -> str:
    norms, sizes = {norm for norm, _ in among}, {eps for _, eps in among}
    return " ".join([threat[0]] * (len(norms) > 1) + [f"eps {eps_text(threat[1])}"] * (len(sizes) > 1))


def _rename(run: Run, keys: Mapping[str, str]) -> None:
    if not keys:
        return
    for name in ("summaries", "verdicts", "threats", "titles"):
        setattr(run, name, {keys.get(key, key): value for key, value in getattr(run, name).items()})
    run.headline = [keys.get(key, key) for key in run.headline]
    run.curves = {name: {eps: keys.get(key, key) for eps, key in curve.items()} for name, curve in run.curves.items()}
