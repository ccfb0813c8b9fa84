"""What the graphs of models say of their inputs."""
