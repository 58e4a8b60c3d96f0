"""Published feature networks, by whose eyes FID, KID, CMMD, IS, 3D-FID and a loss see images."""
