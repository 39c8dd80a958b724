"""Web Bot Auth: a key, signatures of requests, and the directory by which sites verify them."""
