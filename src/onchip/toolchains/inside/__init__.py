"""What runs in an SDK's own Python: stdlib, numpy and msgspec, and nothing of onchip's rest."""
