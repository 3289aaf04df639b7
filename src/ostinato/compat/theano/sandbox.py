"""`theano.sandbox`: of it there is `rng_mrg` only."""
