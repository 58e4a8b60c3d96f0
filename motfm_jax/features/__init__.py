"""Pretrained networks behind FID, KID, CMMD, IS, 3D-FID and the perceptual loss."""
