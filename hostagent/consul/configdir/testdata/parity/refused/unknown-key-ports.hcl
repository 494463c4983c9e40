ports { sidecar_port = 21000 }
