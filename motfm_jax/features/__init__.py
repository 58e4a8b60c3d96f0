"""Published feature networks, by whose eyes FID, KID, CMMD, IS and 3D-FID see images."""
