"""`checkpoint`: what is kept, and where a run goes on from."""

from yolo.recipe.schema.fields import Count, CountOrZero, Duration, Section, setting


class CheckpointSection(Section):
    """DeepSpeed checkpoints, from which a run goes on."""

    every_epochs: Count = setting(1, unit="epochs")
    """Save after every so many epochs, and after the last."""
    every_steps: CountOrZero = setting(0, unit="optimizer steps")
    """Save also within an epoch, after every so many steps of the run (where ranks then differ, once they have met again); a resumed run sees the epoch's remaining images. 0: not within an epoch."""
    keep: Count = setting(2, unit="checkpoints")
    """The newest that stay on disk; the best weights are kept beside them as weights/best.safetensors."""
    resume: str = setting("never")
    """`never` starts anew; `auto` goes on with this recipe's newest run that has a checkpoint, unless it or a later one is finished; or a run's folder."""
    leave_seconds: Duration = setting(30.0, unit="seconds")
    """After SIGTERM, SIGINT or SIGUSR1: how long the ranks may take to end the step, write a checkpoint and leave, before they are ended; SLURM kills after its KillWait, 30 s."""
