//! The disk that survives: found by its name, formatted only where it is provably blank, grown, mounted, linked to.
