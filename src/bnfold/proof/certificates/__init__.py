"""Proofs that two small models compute the same for all inputs."""
