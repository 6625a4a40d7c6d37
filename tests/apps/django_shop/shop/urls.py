"""Where the shop's pages are."""

from django.urls import path

from shop import views

urlpatterns = [
    path("item/<int:pk>", views.item),
    path("aitem/<int:pk>", views.aitem),
    path("price/<int:pk>/<int:price>", views.price),
    path("prices", views.prices),
    path("aprices", views.aprices),
    path("basket/<int:pk>", views.basket),
    path("page", views.page),
    path("fragment", views.fragment),
    path("total", views.total),
    path("clear", views.clear),
    path("health", views.health),
]
