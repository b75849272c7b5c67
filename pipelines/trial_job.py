"""What sweeps and comparisons do alike: run the trials of a book while their MLflow runs are kept and the user told."""

from cpl_ray.config import Config
from cpl_ray.rundir import RunDir
from cpl_ray.tracking import Tracker
from cpl_ray.tracking_uri import default_uri, sqlite_path
from cpl_ray.trial_book import TrialBook
from pipelines.console import Say
from pipelines.sweep_watch import SweepWatch


def run_book(book: TrialBook, tracker: Tracker, say: Say, concurrency: int) -> None:
    """Run all trials of a book that have not ended.

    Raises:
        UserError: Ray Tune failed.
        KeyboardInterrupt: Ctrl-C; the book says that it was interrupted.
    """
    from cpl_ray.search import run_trials
    from pipelines.trial import run_trial

    at_once = f"{concurrency} at once" if concurrency > 1 else "one after the other"
    say(f"{book.total} trials, {at_once}; {len(book.ended_trials)} of them done before")
    job, page = book.config.model_dump(), str(book.folder / book.page)

    def work(index: int) -> None:
        run_trial(job, page, index)

    with SweepWatch(book, tracker, say, concurrency) as watch:
        try:
            watch.catch_up()
            run_trials(book, work, concurrency=concurrency, watcher=watch)
        except KeyboardInterrupt:
            book.conclude("interrupted")
            raise


def with_tracking_address(config: Config, run: RunDir) -> Config:
    """Return the configuration with the tracking database of this job named, since trials lie in another folder."""
    if not config.tracking.enabled:
        return config
    uri = default_uri(config, run.root.parent)
    if config.tracking.uri is not None or sqlite_path(uri) is None:
        return config
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri})})
