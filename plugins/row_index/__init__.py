"""An index of the rows of snapshots, by which takedowns, traces and claims read few parts."""
