"""What every layer shares: specs, artefacts, registries, reports, files and the environment."""
