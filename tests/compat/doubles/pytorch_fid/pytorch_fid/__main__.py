"""Stands for what ``python -m pytorch_fid`` runs."""

import pytorch_fid.fid_score

pytorch_fid.fid_score.main()
