"""The parts of the runner: the work on images and on clips, and what is open meanwhile."""
