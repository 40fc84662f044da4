"""temporary"""
from pathlib import Path
from omegaconf import OmegaConf
Recipe=object
def load_resolved(p): return OmegaConf.load(p)
def save_resolved(r, out):
    p=Path(out)/"resolved.yaml"; OmegaConf.save(r,p); return p
