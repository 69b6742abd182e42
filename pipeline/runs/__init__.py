"""One run's life: trained, evaluated, reported, synced and examined."""
