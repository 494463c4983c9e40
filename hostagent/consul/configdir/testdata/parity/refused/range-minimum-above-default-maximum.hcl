ports { sidecar_min_port = 22000 }
