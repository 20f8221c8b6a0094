"""The command.

    python -m fairat_lightning.report [LABEL=]FOLDER [[LABEL=]FOLDER ...] [--sort] [--to FOLDER]

gathers runs into tables (Markdown, CSV, LaTeX, JSON), figures (PNG, PDF) and one HTML page. A FOLDER is a run, one evaluation
(RUN/evaluation/NAME), a result saved from Python, an exported network with its card, or pretrained:NAME. A folder with runs or
evaluations in it, such as a sweep's or RUN/evaluation, means all the finished ones. Folders of one label are seeds of one row;
without labels, so are runs whose configurations differ in the seed only. Wrong input is one line and exit code 2, and nothing is
written then.
"""

from fairat_lightning.commands.report import main

if __name__ == "__main__":
    main()
