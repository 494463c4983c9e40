service.name = "web"
