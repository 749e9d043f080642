"""What every training is made of, for agents and classifiers: folder, owner, saves, records."""
