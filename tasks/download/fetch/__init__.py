"""HTTP fetching for the download stage: opener, per-host pace, pools and rules."""
