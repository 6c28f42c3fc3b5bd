"""From a picture to its regions: which boxes to look at, and a feature vector for each."""
