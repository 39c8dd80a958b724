"""Count the requests, tasks and core hours of stages on S3, for plans of any number of pairs."""
