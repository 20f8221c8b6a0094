"""The keys of Lightning's Trainer that a user cannot set, and what to set instead."""

EPOCHS = "set trainer.max_epochs=N, a number of whole epochs"
UNSUPPORTED = {  # keys that would shorten a run without its record saying so, or keep it from being saved: what to set
    **dict.fromkeys(("limit_train_batches", "overfit_batches"), "set data.train_size=N"),
    **{"limit_val_batches": "set data.val_per_class=N", "limit_test_batches": "set data.test_size=N"},
    **dict.fromkeys(("max_steps", "min_steps", "min_epochs", "max_time", "val_check_interval"), EPOCHS),
    "reload_dataloaders_every_n_epochs": EPOCHS,
    "check_val_every_n_epoch": "set val_every=N",
    "enable_checkpointing": "the last and the best checkpoint are always kept; set save_minutes=N and select=RULE",
    "barebones": "checkpoints and history are always kept; set trainer.max_epochs=1 data.train_size=N for a short try",
}
INSTEAD = {  # the same for what `build_trainer` sets
    "fast_dev_run": "set trainer.max_epochs=1 data.train_size=N data.test_size=N for a short try",
    "deterministic": "set deterministic=true",
    "logger": "set logger=csv|tensorboard|wandb",
    "default_root_dir": "set hydra.run.dir=FOLDER",
    "callbacks": "set callbacks=[mypackage.Mine] allow=[mypackage.]",
    "plugins": "this package sets the plugin that writes checkpoints; set trainer.precision=NAME for the precision",
    "enable_model_summary": "every run prints its number of parameters, and --cfg job prints the configuration",
    "num_sanity_val_steps": "every run tries its parts once before it begins",
    "use_distributed_sampler": "the data module shares out the images; set data.batch_size=N, for all processes together",
    "inference_mode": "it stays off, because attacks need gradients in validation and test too",
    "sync_batchnorm": "it is always on with several GPUs",
}
