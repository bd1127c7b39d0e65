"""The studies that arXiv 2601.11685 leaves open, each a command with a table, a picture and one JSON line.

    netgraft run --preset demo --out runs/demo                              # once: what all studies start from
    python -m benchmarks.studies.data_fraction runs/demo --root PHOTOS      # how much data the surrogates need
    python -m benchmarks.studies.saliency_reliability runs/demo --root PHOTOS   # which saliency metric to trust
    python -m benchmarks.studies.rank_stability runs/demo --root PHOTOS     # ranks before and after training
    python -m benchmarks.studies.stage_ablation runs/demo --root PHOTOS     # what each stage of the pipeline is worth
    python -m benchmarks.studies.front_finetuning runs/demo --root PHOTOS   # the front before and after fine-tuning
    python -m benchmarks.studies.space_ceiling runs/demo                    # the most that a space can save

PHOTOS holds sharp photographs in train/, validation/ and test/; without it the embedded ones are used, which are few.
Every finished unit is kept in the run folder, so that a study that was stopped continues. ``--publish`` also writes
the record, the picture and the table of docs/studies.md into the repository.
"""
