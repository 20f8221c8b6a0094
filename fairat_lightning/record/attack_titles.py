"""What a reader calls each attack: one table, for records, reports and cards."""

TITLES = {
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd10": "PGD-10",
    "pgd20": "PGD-20",
    "pgd100": "PGD-100 x5",
    "pgd20_l2": "PGD-20 L2",  # in the other norm than that of the threat model; records add its eps
    "pgd20_linf": "PGD-20 Linf",
    "cw20": "CW-20",
    "multitargeted": "Targeted",
    "apgd_ce": "APGD-CE",
    "apgd_t": "APGD-T",
    "fab_t": "FAB-T",
    "square": "Square",
    "apgd": "APGD-CE + APGD-T",
    "autoattack": "AutoAttack",
}
