"""What the reference says about phases, states, authority and the forms of the sync triggers; data for `pgduet.reference`."""

from pgduet.phases import Authority, Phase, State, SyncMode

DOES: dict[Phase, tuple[str, str, str]] = {
    Phase.PREFLIGHT: (
        "checks the plan against catalogue, rows and live migrations; opens the row in `pgduet.migration`",
        "nothing to undo",
        "nothing is refused (hazards are told, not refused)",
    ),
    Phase.EXPAND: (
        "adds the new columns or the other shape, empty and unbound, and the insert marker; makes the `from` version's schema",
        "`undo_expand` drops what was added; the `from` version's schema stays",
        "they exist",
    ),
    Phase.DUAL_WRITE: (
        "installs each table's sync triggers in one transaction, old to new, and sends a probe write through them",
        "`undo_dual_write` drops triggers and functions",
        "the probe row came out filled",
    ),
    Phase.BACKFILL: (
        "fills the rows that exist, in batches of heap pages that adapt to a time target",
        "`undo_backfill` records that it stopped",
        "no row is left that `up` cannot map",
    ),
    Phase.VERIFY: (
        "compares every row, repairs once, publishes (sync both ways, archive restored, the new schema opened), schedules more",
        "`undo_verify` waits until no client of the new version is left, drops its schema, archives what only it had",
        "drift within `max_drift_rows`, no row against a coming constraint",
    ),
    Phase.SHADOW: (
        "reads sampled keys through both versions and compares the answers",
        "nothing to undo",
        "`min_samples` samples within `max_mismatch_ratio`, or `mode: skip`",
    ),
    Phase.SHIFT: (
        "raises the routers' share of reads step by step, each baked for `bake_s`",
        "`undo_shift` sends all reads back",
        "the step of 100 % has baked within its criteria",
    ),
    Phase.CUTOVER: (
        "compares again, proves the way back by a probe write, declares constraints and unique indexes, then flips authority",
        "`undo_cutover` gives authority back, then takes the constraints off",
        "the flip is committed",
    ),
    Phase.SOAK: (
        "keeps both versions alive; counts who is left on the old version",
        "the undos above still work",
        "the window is over and no client of the old version was seen for `legacy_idle_s`",
    ),
    Phase.CONTRACT: (
        "archives old values that `down` cannot give back, drops the old schema, indexes, triggers and columns",
        "**none**: the point of no return",
        "the old objects are gone",
    ),
    Phase.DONE: ("only the new version is left", "none", "it is an end"),
    Phase.ROLLED_BACK: (
        "the tables are as they were before expand; the `from` version's schema stays",
        "none",
        "it is an end; the same name may start again",
    ),
}

STATES: dict[State, str] = {
    State.RUNNING: "it works",
    State.WAITING: "it waits; `waiting_for` says for what, since when, and which command moves it on",
    State.PAUSED: "somebody paused it; triggers keep both versions in step",
    State.ROLLING_BACK: "undos run, the last phase's first; `safe` is false until the old version is back in charge",
    State.ROLLED_BACK: "everything is back",
    State.FAILED: "the workflow ended with an error: preflight refused, or it was terminated",
    State.DONE: "only the new version is left",
}

AUTHORITIES: dict[Authority, str] = {
    Authority.OLD: "until cutover: repair writes what `up` says; routers past their lease answer old",
    Authority.NEW: "from cutover: repair writes what `down` says; routers past their lease answer new",
}

SYNC: dict[SyncMode, tuple[str, str]] = {
    SyncMode.FILL: (
        "dual_write to publication",
        "old to new only; an update of any column fills an empty row; what `up` cannot map stays empty and is noted",
    ),
    SyncMode.BOTH: (
        "publication to cutover",
        "both ways; what `down` cannot carry is refused or archived, as the policy says; the rest as before",
    ),
    SyncMode.ENFORCE: ("from cutover", "both ways; an old client's write that the new version cannot hold is refused"),
}
